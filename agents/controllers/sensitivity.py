"""Rates by sensitivity: every group gives as much as it can at one level of harm, the level that meets the budget."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rlprune.agents.controllers.base import RoundRule
from rlprune.envs.episode.budget import Counts
from rlprune.errors import check_count
from rlprune.scoring.sensitivity import RATES, Sensitivity, read_scan, scan


@dataclass
class SensitivityRule(RoundRule):
    """Scans every group alone, then cuts all of them at one drop (the rule that PFEC's tables were made by).

    Li et al. 2016, section 3.2, choose rates by stage from such a scan, by eye; one level for all groups is ours. With
    a budget the level is the least that meets it. Without one it is the tolerance, shared out evenly among the groups.

    Attributes:
        recovery: Repairs applied before a scanned network is scored.
        limit: Control images of the scan; None uses all.
        file: A finished scan of the unpruned network to read instead (`rlprune sensitivity` wrote it); later rounds
            scan what is left.
    """

    recovery: str = "lsq"
    limit: int | None = 500
    file: str = ""

    def __post_init__(self) -> None:
        check_count("limit", self.limit)

    def plan(self) -> dict[str, int]:
        """Every group's count at this round's level."""
        names = (group.name for group in self.env.prunable)
        return dict(zip(names, self._level().tolist(), strict=True))

    def _level(self) -> Counts:
        env = self.env
        found = self._scanned([group.name for group in env.prunable])
        curves = [monotone(found, group.name, group.size) for group in env.prunable]
        budget = env.budget
        if budget.target is None:
            return self._rounded(curves, env.tolerance / len(curves))
        low, high = 0.0, 1.0
        for _ in range(30):
            level = (low + high) / 2
            if budget.cost(budget.before + self._rounded(curves, level)) > budget.target:
                low = level
            else:
                high = level
        return budget.repair(self._rounded(curves, high) / budget.sizes)

    def _scanned(self, groups: list[str]) -> Sensitivity:
        env = self.env
        if self.file and not env.network.plan:
            return read_scan(Path(self.file), env.problem, env.network, groups)
        return scan(
            env.problem,
            network=env.network,
            criterion=env.rules.criterion,
            recovery=self.recovery,
            rates=RATES,
            groups=groups,
            limit=self.limit,
            seed=env.rules.seed,
        )

    def _rounded(self, curves: list[NDArray[np.float64]], level: float) -> Counts:
        """The most that every group can give with a drop of at most `level`."""
        counts = []
        for options, curve in zip(self.env.budget.choices, curves, strict=True):
            counts.append(int(options[int((curve[options] <= level).sum()) - 1]))
        return np.array(counts, dtype=np.int64)


def monotone(found: Sensitivity, name: str, size: int) -> NDArray[np.float64]:
    """The drop (size + 1,) by filters removed: 0 at none, linear between the scanned rates, never falling.

    Beyond the last rate it rises to 1.
    """
    removed = [0, *found.removed[name], size]
    drops = np.maximum.accumulate([0.0, *found.drops(name), 1.0])
    curve: NDArray[np.float64] = np.interp(np.arange(size + 1), removed, drops)
    curve[0] = 0.0
    return curve
