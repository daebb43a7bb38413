"""PFEC: rates by stage, the filters of least L1 norm, all at once, then retraining.

Li et al. 2016, *Pruning Filters for Efficient ConvNets*. The published rates are presets (`PFEC_TABLES`). Without one
the rates come from a sensitivity scan, as in section 3.2; the paper reads them off by eye, so the rule that does it
here is reconstructed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import gymnasium
import numpy as np

from rlprune.agents.controllers.base import RoundRule
from rlprune.agents.controllers.fixed import PFEC_TABLES, removed_at
from rlprune.agents.controllers.rounds import Scores, aimed, is_convolution
from rlprune.channels import ChannelGroup, ChannelGroups, PruningPlan
from rlprune.criteria import CriterionContext, get_criterion, lowest
from rlprune.criteria.base import Criterion
from rlprune.errors import check_rate
from rlprune.network import Network
from rlprune.scoring.sensitivity import read_scan, removed_by_scan, scan


@dataclass
class Pfec(RoundRule):
    """A rate for every stage, removed in one round.

    Attributes:
        table: A published preset, such as `resnet56-b`; empty takes the rates from a sensitivity scan.
        allowed: Drop of the control score that a layer alone, pruned and not repaired, may cause in the scan.
        by_stage: Give all layers of a stage (of one width) the median of their rates and leave those whole that would
            not bear half of it, as the published tables do; else each layer its own.
        greedy: Leave out the kernels of maps pruned already when the next layer is ranked; else layers are
            independent.
        file: A finished scan to read the rates from (`rlprune sensitivity` wrote it); else the network is scanned.
    """

    table: str = ""
    allowed: float = 0.05
    by_stage: bool = True
    greedy: bool = False
    file: str = ""

    def __post_init__(self) -> None:
        check_rate("allowed", self.allowed)
        self._preset = PFEC_TABLES.get(self.table) if self.table else None
        self._rates: Mapping[str, float] = {}

    def bind(self, env: gymnasium.Env[object, object]) -> None:
        """Use this environment, whose network must have the table's shape."""
        super().bind(env)
        self._rates = self._preset.rates(self.env.problem.groups) if self._preset is not None else {}

    def plan(self) -> Mapping[str, int]:
        """The counts of one round, scaled by one factor to a budget if there is one; more only where rounds aim."""
        env = self.env
        if env.round > 0 and not aimed(env):
            return {}
        if not self._rates:
            self._rates = self._scanned()
        rates = self._rates
        if env.budget.target is None:
            rounded = removed_at if self._preset is not None else removed_by_scan
            wanted = {group.name: rounded(group.size, rates.get(group.name, 0.0)) for group in env.prunable}
            counts = {group.name: group.allowed(wanted[group.name]) for group in env.prunable}
        else:
            fitted = env.budget.repair(np.array([rates.get(group.name, 0.0) for group in env.prunable]))
            counts = {group.name: int(count) for group, count in zip(env.prunable, fitted, strict=True)}
        if self.greedy:
            criterion = get_criterion(env.rules.criterion)
            env.rank(greedy_scores(env.network, env.problem.groups, criterion, counts))
        return counts

    def _scanned(self) -> dict[str, float]:
        env, groups = self.env, self.env.network.groups
        names = [group.name for group in env.prunable if is_convolution(group, groups)]
        if self.file:
            found = read_scan(Path(self.file), env.problem, env.network, names)
        else:
            criterion, seed = env.rules.criterion, env.rules.seed
            found = scan(env.problem, network=env.network, criterion=criterion, groups=names, seed=seed)
        rates = {name: found.largest_rate(name, self.allowed) for name in names}
        return stage_rates(rates, [groups[name] for name in names], groups) if self.by_stage else rates


def stage_rates(rates: Mapping[str, float], layers: list[ChannelGroup], groups: ChannelGroups) -> dict[str, float]:
    """The median of each stage's rates for all of its layers, 0 for layers that bear less than half of it."""
    stages: dict[int, list[str]] = {}
    for group in layers:
        stages.setdefault(groups.layers[group.producers[0]].shape[0], []).append(group.name)
    found: dict[str, float] = {}
    for names in stages.values():
        rate = float(np.median([rates[name] for name in names]))
        found |= {name: rate if rates[name] >= rate / 2 else 0.0 for name in names}
    return found


def greedy_scores(network: Network, base: ChannelGroups, criterion: Criterion, counts: Mapping[str, int]) -> Scores:
    """Scores by group when the layers are pruned one after the other, in execution order (Li et al. 2016, fig. 3).

    A layer is ranked on the network that the layers before it were removed from, so kernels that read maps already
    gone do not count.

    Args:
        network: Where to start.
        base: Groups of the unpruned network.
        criterion: Ranks on weights alone.
        counts: Filters that each group will lose.
    """
    found: dict[str, np.ndarray] = {}
    current = network
    for group in network.groups.prunable:
        scores = criterion.scores(CriterionContext(current.model, current.groups))[group.name]
        found[group.name] = scores
        if counts.get(group.name):
            current = current.remove(PruningPlan({group.name: lowest(scores, counts[group.name])}), base)
    return found
