"""What the groups of a round cost their readers at every count, and the schedule that costs them least.

The error curves come from Gram matrices (`rlprune.criteria.errors`), so all of this is known without an evaluation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rlprune.envs.episode.budget import Budget, Counts

Curves = Mapping[str, NDArray[np.float64]]
PRICES = np.geomspace(1e-3, 1e3, 256)
"""Errors that a group may cost for its share of the MACs; what lies between two is interpolated."""
STRIDE = 16  # rows of the table that are looked at first: every 16th, then those between two


@dataclass(frozen=True, eq=False)
class Damage:
    """The error curves of a round's m groups.

    Attributes:
        curves: For each group the error (size + 1,) after its 0, 1, 2 ... lowest filters are gone.
        known: Whether a group's curve was measured. Where it was not, the mean of the others, by rate, stands in.
        table: Counts (prices + 2, m), rising: none at all, then the best at every price, then all that may go.
    """

    curves: tuple[NDArray[np.float64], ...]
    known: tuple[bool, ...]
    table: NDArray[np.float64]

    @classmethod
    def of(cls, names: Sequence[str], curves: Curves, budget: Budget, shares: NDArray[np.float64]) -> Damage | None:
        """The damage of the groups `names`; None if no curve is known.

        Args:
            names: The m groups.
            curves: The errors that are known, by group.
            budget: The round's budget.
            shares: The fraction (m,) of the MACs that would go with each whole group.
        """
        measured = [curves.get(name) for name in names]
        known = [curve for curve in measured if curve is not None]
        if not known:
            return None
        rates = np.linspace(0.0, 1.0, 65)
        mean = np.mean([np.interp(rates, np.linspace(0.0, 1.0, len(curve)), curve) for curve in known], axis=0)
        whole = tuple(
            curve if curve is not None else np.interp(np.arange(size + 1) / size, rates, mean)
            for curve, size in zip(measured, budget.sizes.tolist(), strict=True)
        )
        table = np.zeros((len(PRICES) + 2, len(names)))
        table[-1] = budget.most
        for place, (curve, options) in enumerate(zip(whole, budget.choices, strict=True)):
            worth = options / budget.sizes[place] * shares[place]
            table[1:-1, place] = options[np.argmin(curve[options] - PRICES[:, None] * worth, axis=1)]
        return cls(whole, tuple(curve is not None for curve in measured), table)

    def advised(self, budget: Budget, place: int, counts: Counts) -> float:
        """The count, a fraction, of group number `place` with which the errors of it and all later groups sum to least.

        What is left of the budget is spent on them, or without a budget what the uniform schedule would spend. The
        least sum is that of the counts at which all groups ask the same price, so only the price is looked for.

        Args:
            budget: The round's.
            place: Of the current group.
            counts: What the groups before it lost in this round (m,).
        """
        done, target = counts[:place], self._target(budget)

        def left(rows: NDArray[np.int64]) -> NDArray[np.float64]:
            """What is still to be saved at rows of the table; falls along them."""
            planned = self.table[rows]
            planned[:, :place] = done
            return budget.cost.many(budget.before + planned) - target

        last = len(self.table) - 1
        rows = np.append(np.arange(0, last, STRIDE), last)
        first = min(int(rows[max(0, int(np.searchsorted(-left(rows), 0.0)) - 1)]), last - 1)
        rows = np.arange(first, min(first + STRIDE, last) + 1)
        rest = left(rows)
        inside = min(max(1, int(np.searchsorted(-rest, 0.0))), len(rows) - 1)
        low, high, over, under = int(rows[inside - 1]), int(rows[inside]), rest[inside - 1], rest[inside]
        part = 1.0 if over <= under else min(1.0, max(0.0, float(over / (over - under))))
        return float(self.table[low, place] + part * (self.table[high, place] - self.table[low, place]))

    @staticmethod
    def _target(budget: Budget) -> float:
        uniform = np.minimum(budget.default_rate * budget.sizes, budget.most)
        if budget.target is None:
            return float(budget.cost.many(budget.before + uniform))
        if budget.must_meet:
            return float(budget.target)
        return max(float(budget.target), float(budget.cost.many(budget.before + uniform)))
