"""Rates at which the groups of a round cost least together, known before anything is tried."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from rlprune.agents.controllers.base import RoundRule


@dataclass
class LeastError(RoundRule):
    """The least sum of reconstruction errors within the budget.

    A group's error is the share of its readers' output that least squares cannot restore once its lowest filters are
    gone (`rlprune.criteria.errors`). The counts at which all groups pay the same error for their next share of the
    MACs sum to least; the price is the one that spends the budget, or without one what the uniform schedule would
    spend. Needs no evaluation, and no training. Without Gram matrices (layers that are no modules) it is uniform.
    """

    kind: ClassVar[str] = "error"

    def schedule(self) -> dict[str, int]:
        """The whole round's counts."""
        env = self.env
        counts = (env.advised_rates(self.kind) * env.budget.sizes).round().astype(int).tolist()
        return dict(zip((group.name for group in env.prunable), counts, strict=True))

    def plan(self) -> Mapping[str, int]:
        """The same."""
        return self.schedule()


@dataclass
class LeastResponse(LeastError):
    """The least sum of what each group by itself does to the network's outputs, within the budget.

    As `error`, with curves that tell how the outputs of the whole network change on a few calibration images once a
    group's lowest filters are gone and their readers refitted (`rlprune.scoring.response`): at the price of scoring a
    network or two it knows that layers differ in what they matter. It goes by the geometric mean of both curves, or by
    one of them alone where that schedule, as a whole, changes the outputs clearly less. Needs no labels and no
    training. Where outputs cannot be compared (a detector's boxes), it is `error`.
    """

    kind: ClassVar[str] = "response"
