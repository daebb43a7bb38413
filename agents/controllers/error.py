"""Rates that cost the readers of the pruned groups least, known from Gram matrices before anything is tried."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rlprune.agents.controllers.base import Rule

if TYPE_CHECKING:
    from rlprune.envs.env import FilterPruningEnv


@dataclass
class LeastError(Rule):
    """The least sum of reconstruction errors within the budget.

    A group's error is the share of its readers' output that least squares cannot restore once its lowest filters are
    gone (`rlprune.criteria.errors`). The counts at which all groups pay the same error for their next share of the
    MACs sum to least; the price is the one that spends the budget, or without one what the uniform schedule would
    spend. Needs no evaluation, and no training. Without Gram matrices (layers that are no modules) it is uniform.
    """

    def schedule(self) -> dict[str, int]:
        """The whole round's counts."""
        return advised_counts(self.env)

    def count(self) -> int:
        """The advised count, rounded."""
        return int(self.env.advised + 0.5)


def advised_counts(env: FilterPruningEnv) -> dict[str, int]:
    """The counts by group with which a whole round's errors sum to least."""
    counts = (env.advised_rates * env.budget.sizes).round().astype(int).tolist()
    return dict(zip((group.name for group in env.prunable), counts, strict=True))
