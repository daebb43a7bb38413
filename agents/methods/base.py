"""What a method is: a recipe over criterion, controller, recovery and schedule; and what its rules share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from rlprune.agents.fixed import BoundRule
from rlprune.agents.settings import PruneSettings
from rlprune.channels import ChannelGroup, ChannelGroups
from rlprune.data.splits import Split
from rlprune.envs import FilterPruningEnv
from rlprune.evaluation import evaluating
from rlprune.problem import PruningProblem
from rlprune.registry import Registry

Scores = Mapping[str, NDArray[np.float64]]


@dataclass(frozen=True)
class Recipe:
    """A method, ready to run.

    Attributes:
        summary: What it does, in a line.
        settings: All of its constants; any of them can be changed.
    """

    summary: str
    settings: PruneSettings


METHODS: Registry[Recipe] = Registry("method")


class RoundRule(BoundRule):
    """A rule that decides a whole round at its first group."""

    _counts: Mapping[str, int]

    def plan_round(self) -> Mapping[str, int]:
        """How many filters each group loses in this round; groups left out lose none."""
        raise NotImplementedError

    def count(self) -> int:
        """The current group's count."""
        if self.env.visit == 0:
            self._counts = self.plan_round()
        return self._counts.get(self.env.group.name, 0)


def is_convolution(group: ChannelGroup, groups: ChannelGroups) -> bool:
    """Whether the group's filters are those of convolutions, not of linear layers."""
    return bool(group.producers) and groups.layers[group.producers[0]].kind != "linear"


def counts_of(order: Iterable[str]) -> dict[str, int]:
    """How often every group is named."""
    counts: dict[str, int] = {}
    for name in order:
        counts[name] = counts.get(name, 0) + 1
    return counts


def global_order(env: FilterPruningEnv, scores: Scores) -> list[str]:
    """The groups of all filters that may go, lowest score first; every group keeps its minimum.

    Of equal scores the earlier group, and in it the lower filter, goes first.
    """
    ranked = []
    for place, group in enumerate(env.prunable):
        if group.name in scores:
            lowest = np.sort(scores[group.name], kind="stable")[: group.max_removable]
            ranked += [(float(score), place, number) for number, score in enumerate(lowest)]
    names = [group.name for group in env.prunable]
    return [names[place] for _, place, _ in sorted(ranked)]


def first_to_meet(env: FilterPruningEnv, order: list[str]) -> int:
    """The smallest k such that the first k filters of `order` leave at most the budget's MACs; all, if none is enough.

    Bisection: MACs fall with every filter.
    """
    budget = env.budget
    if budget.target is None:
        return len(order)
    places = {group.name: place for place, group in enumerate(env.prunable)}

    def macs(k: int) -> int:
        counts = np.zeros(len(places), dtype=np.int64)
        for name, count in counts_of(order[:k]).items():
            counts[places[name]] = count
        return budget.cost(budget.before + counts)

    low, high = 0, len(order)
    while low < high:
        middle = (low + high) // 2
        if macs(middle) > budget.target:
            low = middle + 1
        else:
            high = middle
    return low


def mean_loss(problem: PruningProblem, model: nn.Module, images: Split, batch_size: int = 500) -> float:
    """The task's mean loss of a network in eval mode; counts as an evaluation."""
    total, seen = 0.0, 0
    with evaluating(model), torch.no_grad():
        for batch in images.batches(batch_size, device=problem.device):
            size = len(batch[1])
            total += float(problem.task.loss(model, batch)) * size
            seen += size
    problem.ledger.evaluations += 1
    problem.ledger.images_evaluated += seen
    return total / max(seen, 1)
