"""What the groups of a round cost at every count, and the schedule that costs least.

Two kinds of curves say what a group costs: `error`, its readers' (`rlprune.criteria.errors`), known from Gram matrices
without an evaluation, and `response`, the network's outputs' (`rlprune.scoring.response`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlprune.envs.episode.budget import Budget

Curves = Mapping[str, NDArray[np.float64]]
PRICES = np.geomspace(1e-3, 1e3, 256)
"""Errors that a group may cost for its share of the MACs; what lies between two is interpolated."""


@dataclass(frozen=True, eq=False)
class Damage:
    """The error curves of a round's m groups.

    Attributes:
        curves: For each group the error (size + 1,) after its 0, 1, 2 ... lowest filters are gone.
        known: Whether a group's curve was measured. Where it was not, the mean of the others, by rate, stands in.
        table: Counts (prices + 2, m), rising: none at all, then the best at every price, then all that may go.
        a, b: The widths of the budget's T tensors at these counts (T, prices + 2).
    """

    curves: tuple[NDArray[np.float64], ...]
    known: tuple[bool, ...]
    table: NDArray[np.float64]
    a: NDArray[np.float64]
    b: NDArray[np.float64]

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
        gone, cost = budget.before + table, budget.cost
        a, b = cost.a[:, None] - cost.A @ gone.T, cost.b[:, None] - cost.B @ gone.T
        return cls(whole, tuple(curve is not None for curve in measured), table, a, b)


@dataclass(eq=False)
class Ranking:
    """The score of every filter, by group, and, once somebody asked, what the loss of the lowest costs, by kind."""

    scores: dict[str, NDArray[np.float64]]
    curves: dict[str, Curves] = field(default_factory=dict)
    damages: dict[tuple[Any, ...], Damage | None] = field(default_factory=dict)

    def damage(self, kind: str, names: Sequence[str], budget: Budget, shares: NDArray[np.float64]) -> Damage | None:
        """The damage of a round of this ranking's network, which differs by what may go; kept for later episodes."""
        key = (kind, tuple(names), budget.most.tobytes(), shares.tobytes())
        if key not in self.damages:
            self.damages[key] = Damage.of(names, self.curves[kind], budget, shares)
        return self.damages[key]


class Advice:
    """The counts of a round, group after group, with which the errors of this and all later groups sum to least.

    What is left of the budget is spent on them, or without a budget what the uniform schedule would spend. The least
    sum is that of the counts at which all groups ask the same price, so only the price is looked for.
    """

    def __init__(self, damage: Damage, budget: Budget) -> None:
        self._table, self._budget, self._place = damage.table, budget, 0
        self._a, self._b = damage.a.copy(), damage.b.copy()  # where what was taken replaces what was planned
        cost, target = budget.cost, float(budget.target or 0)
        if budget.target is None or not budget.must_meet:
            uniform = np.minimum(budget.default_rate * budget.sizes, budget.most)
            target = max(target, float(cost.many(budget.before + uniform)))
        self._left = cost.weight @ (self._a * self._b) + (cost.constant - target)

    def count(self) -> float:
        """The count, a fraction, for the current group."""
        left, table, place = self._left, self._table, self._place  # what is still to be saved falls along the rows
        inside = min(max(1, int(np.count_nonzero(left > 0.0))), len(left) - 1)
        over, under = float(left[inside - 1]), float(left[inside])
        part = 1.0 if over <= under else min(1.0, max(0.0, over / (over - under)))
        return float(table[inside - 1, place] + part * (table[inside, place] - table[inside - 1, place]))

    def take(self, count: int) -> None:
        """The current group lost `count` filters; go on to the next."""
        back = self._table[:, self._place] - count
        for row, weight, da, db in self._budget.columns[self._place]:
            a, b = self._a[row], self._b[row]
            if da:
                self._left += (weight * da) * back * b
                a += da * back
            if db:
                self._left += (weight * db) * back * a
                b += db * back
        self._place += 1
