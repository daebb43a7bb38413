"""Schedules fixed beforehand: the same rate everywhere, a table of rates by layer, a polynomial ramp."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from rlprune.agents.controllers.base import Array, Rule, State
from rlprune.channels import ChannelGroups
from rlprune.errors import UserError, check_count, check_rate
from rlprune.files import read_json
from rlprune.registry import Registry


def removed_at(size: int, rate: float) -> int:
    """How many of `size` filters go at a rate: all but int(size * (1 - rate)), as PFEC (Li et al. 2016) rounds.

    >>> removed_at(16, 0.1)
    2
    """
    return size - int(size * (1.0 - rate) + 1e-9)


@dataclass
class Uniform(Rule):
    """The same rate for every group.

    Attributes:
        rate: The rate; None takes the one that spends the budget exactly (action 0), which needs no `bind`.
    """

    rate: float | None = None

    def __post_init__(self) -> None:
        if self.rate is not None:
            check_rate("rate", self.rate)

    def count(self) -> int:
        """The count at the one rate."""
        assert self.rate is not None
        return removed_at(self.env.group.size, self.rate)

    def predict(
        self, observation: Any, state: State = None, episode_start: Array | None = None, deterministic: bool = True
    ) -> tuple[Array, State]:
        """Action 0, or the action of the one rate."""
        if self.rate is None:
            return np.zeros((*np.shape(observation)[:-1], 1), dtype=np.float32), state
        return super().predict(observation, state, episode_start, deterministic)


@dataclass
class PerLayerTable(Rule):
    """A rate for every group, by its name; groups that are not in the table stay whole.

    Attributes:
        rates: Rate by pattern, as in `{"layer1.*": 0.3}`; the first pattern that matches counts.
        file: JSON file that holds such rates; they come behind those of `rates`.
    """

    rates: Mapping[str, float] = field(default_factory=dict)
    file: str = ""

    def __post_init__(self) -> None:
        if self.file:
            read = read_json(Path(self.file))
            if not isinstance(read, dict) or not all(isinstance(rate, (int, float)) for rate in read.values()):
                raise UserError(f'{self.file} is no table of rates; it must look like {{"layer1.*": 0.3}}')
            self.rates = {**self.rates, **read}
        for pattern, rate in self.rates.items():
            check_rate(f"rate of {pattern!r}{self.file and f' in {self.file}'}", rate)

    def rate(self, name: str) -> float:
        """The rate of a group."""
        return next((rate for pattern, rate in self.rates.items() if fnmatch.fnmatchcase(name, pattern)), 0.0)

    def count(self) -> int:
        """The count at the group's rate; nothing after the first round, since a table is for one."""
        return removed_at(self.env.group.size, self.rate(self.env.group.name)) if self.env.round == 0 else 0


@dataclass(frozen=True)
class PfecTable:
    """A published table of PFEC (Li et al. 2016, tables 1 and 2; rules from the authors' code).

    Convolutions are numbered from 1 at the stem in execution order, shortcuts' 1x1 ones left out; in residual networks
    those with an even number are the first of their block, and only they are pruned.

    Attributes:
        convs: Rate by number, for plain networks.
        stages: Rate by stage (convolutions of one width), for residual networks.
        skip: Numbers that stay whole.
    """

    convs: Mapping[int, float] = field(default_factory=dict)
    stages: tuple[float, ...] = ()
    skip: tuple[int, ...] = ()

    def rates(self, groups: ChannelGroups) -> dict[str, float]:
        """Rate by group name, for the groups of an unpruned network.

        Raises:
            UserError: If the network has not the table's stages or convolutions.
        """
        numbers = numbered_convolutions(groups)
        if self.convs:
            if max(self.convs) > len(numbers):
                raise UserError(
                    f"this table is for {max(self.convs)} convolutions or more; the network has {len(numbers)}"
                )
            wanted = {number: self.convs.get(number, 0.0) for number in numbers.values()}
        else:
            width = {number: groups.layers[name].shape[0] for name, number in numbers.items() if number % 2 == 0}
            widths = sorted(set(width.values()))
            if len(widths) != len(self.stages):
                raise UserError(f"this table is for {len(self.stages)} stages; the network has widths {widths}")
            wanted = {
                number: 0.0 if number in self.skip else self.stages[widths.index(size)]
                for number, size in width.items()
            }
        found = {}
        for group in groups.prunable:
            number = numbers.get(group.producers[0])
            if number in wanted and "residual" not in group.kinds:
                found[group.name] = wanted[number]
        return found


def numbered_convolutions(groups: ChannelGroups) -> dict[str, int]:
    """The number of every convolution with a kernel of more than one position, by layer name, from 1."""
    layers = sorted(groups.layers.values(), key=lambda layer: layer.order)
    names = [layer.name for layer in layers if layer.kind == "conv" and max(layer.kernel) > 1]
    return {name: number for number, name in enumerate(names, start=1)}


PFEC_TABLES: Registry[PfecTable] = Registry("PFEC table")
for _name, _table in {
    "vgg16-a": PfecTable(convs={1: 0.5, **dict.fromkeys(range(8, 14), 0.5)}),
    "resnet56-a": PfecTable(stages=(0.1, 0.1, 0.1), skip=(16, 20, 38, 54)),
    "resnet56-b": PfecTable(stages=(0.6, 0.3, 0.1), skip=(16, 18, 20, 34, 38, 54)),
    "resnet110-a": PfecTable(stages=(0.5, 0.0, 0.0), skip=(36,)),
    "resnet110-b": PfecTable(stages=(0.5, 0.4, 0.3), skip=(36, 38, 74)),
    "resnet34-a": PfecTable(stages=(0.3, 0.3, 0.3, 0.0), skip=(2, 8, 14, 16, 26, 28, 30, 32)),
    "resnet34-b": PfecTable(stages=(0.5, 0.6, 0.4, 0.0), skip=(2, 8, 14, 16, 26, 28, 30, 32)),
}.items():
    PFEC_TABLES.register(_name)(_table)


@dataclass
class Polynomial(Rule):
    """A ramp of the rate over the rounds: r_t = r_f * (1 - (1 - t/n)^power), of the unpruned width.

    Zhu and Gupta 2017, *To prune, or not to prune*, equation 1, with an initial sparsity of 0 (automated gradual
    pruning); their power is 3, and 1 is a linear ramp.

    Attributes:
        rate: The final rate r_f.
        steps: Rounds n until it is reached.
        power: How early most of it goes.
    """

    rate: float = 0.5
    steps: int = 10
    power: float = 3.0

    def __post_init__(self) -> None:
        check_rate("rate", self.rate)
        check_count("steps", self.steps)
        if not self.power > 0:
            raise UserError(f"power is {self.power}; it must be above 0")

    def rate_at(self, number: int) -> float:
        """The rate that should be reached with round `number`, from 1."""
        left: float = (1.0 - min(number, self.steps) / self.steps) ** self.power
        return self.rate * (1.0 - left)

    def count(self) -> int:
        """What is missing to this round's rate."""
        group = self.env.group
        size = self.env.problem.groups[group.name].size
        return max(0, removed_at(size, self.rate_at(self.env.round + 1)) - (size - group.size))
