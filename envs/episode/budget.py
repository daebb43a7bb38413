"""The feasible window of pruning counts under a MACs budget, and the map between actions and counts.

MACs (and parameters) are a sum of products of two kept widths, so they are known exactly and at once for any counts,
also for fractional ones. That makes the window of a group cheap: `lo` is what must go now, given that all later groups
can give at most their maximum; `hi` is what may go, given that more would spend more than the budget asks for.
Whatever the actions, the budget is then met to within one filter, and no action is ever clipped.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from rlprune.cost import BilinearCost as BilinearCost
from rlprune.envs.episode.cursor import Column, Cursor, columns_of
from rlprune.envs.episode.window import Counts as Counts
from rlprune.envs.episode.window import Window, place_among
from rlprune.errors import UserError


class Walk:
    """The windows of a round in the order of the visits, each worked out from the one before.

    Attributes:
        group: The current group.
        counts: What was taken so far (n,).
        done: The cost as if what was taken so far were gone.
        most: The cost if this and all later groups give their maximum too; None without a target.
    """

    def __init__(self, budget: Budget) -> None:
        self.budget, self.group = budget, 0
        cost, columns, sizes = budget.cost, budget.columns, budget.sizes
        self.counts: Counts = np.zeros_like(sizes)
        self.done = Cursor(cost, columns, budget.before)
        self.most = Cursor(cost, columns, budget.before + budget.most)
        # With the rate r for all groups to come the cost is done.total - slope r + curve r^2.
        self._da: list[int] = (cost.A @ sizes).tolist()
        self._db: list[int] = (cost.B @ sizes).tolist()
        self._slope = self._curve = 0
        self._weight = cost.weight.tolist()
        self._count_in(enumerate(self._weight), 1)

    def _count_in(self, rows: Iterable[tuple[int, int]], sign: int) -> None:
        """Add what some rows (number, weight) contribute to slope and curve, or take it away."""
        a, b, da, db = self.done.a, self.done.b, self._da, self._db
        for row, weight in rows:
            self._slope += sign * weight * (a[row] * db[row] + b[row] * da[row])
            self._curve += sign * weight * da[row] * db[row]

    def take(self, count: int) -> None:
        """Take `count` filters from the current group and go on to the next."""
        budget, group = self.budget, self.group
        size, rows = int(budget.sizes[group]), [(row, weight) for row, weight, _, _ in budget.columns[group]]
        self._count_in(rows, -1)
        self.done.move(group, count)
        for row, _, da, db in budget.columns[group]:
            self._da[row] -= da * size
            self._db[row] -= db * size
        self._count_in(rows, 1)
        self.most.move(group, count - int(budget.most[group]))
        self.counts[group] = count
        self.group += 1

    def window(self) -> Window:
        """The window of the current group."""
        budget, group = self.budget, self.group
        size, options = int(budget.sizes[group]), budget.choices[group]
        rate = budget.default_rate
        if budget.target is not None:
            last = self._first_met(self.done, options, 0)
            first = min(last, self._first_met(self.most, options, int(options[-1]))) if budget.must_meet else 0
            rate = self.uniform_rate() if budget.must_meet else min(rate, self.uniform_rate())
            options = options[first : last + 1]
        return Window(size, options, place_among(options, rate * size))

    def _first_met(self, cursor: Cursor, options: Counts, taken: int) -> int:
        """The first option with which the target is met, or the last; the cursor has `taken` of the group gone."""
        target, (slope, curve) = self.budget.target, cursor.along(self.group)
        assert target is not None
        over = cursor.total - target

        def met(count: np.int64) -> bool:
            more = int(count) - taken
            return over + more * (curve * more - slope) <= 0

        return min(bisect_left(options, True, key=met), len(options) - 1)

    def uniform_rate(self) -> float:
        """The rate that spends what is left when applied to this and all later groups, capped at their maxima."""
        budget = self.budget
        assert budget.target is not None
        over = self.done.total - budget.target
        if over <= 0:
            return 0.0
        root = self._slope * self._slope - 4 * self._curve * over
        rate = 2.0 * over / (self._slope + root**0.5) if root >= 0 and self._slope > 0 else float("inf")
        if rate <= budget.caps[self.group]:
            return rate
        return budget.capped_rate((budget.before + self.counts).astype(np.float64), self.group)


@dataclass(frozen=True, eq=False)
class Budget:
    """A round's budget: what each of n groups may lose so that the cost ends at or just below `target`.

    Attributes:
        cost: MACs of counts removed from the *unpruned* network.
        before: counts (n,) removed in earlier rounds.
        sizes: filters (n,) at the start of the round.
        choices: for each group the counts that may go in this round, ascending from 0.
        target: MACs to end at, or None for no budget.
        must_meet: whether the target has to be met in this round (else it is only not overshot).
        default_rate: the uniform rate that action 0 stands for where no budget says it.
        columns: `columns_of(cost)`; worked out where it is not given.
    """

    cost: BilinearCost
    before: Counts
    sizes: Counts
    choices: tuple[Counts, ...]
    target: int | None
    must_meet: bool = True
    default_rate: float = 0.25
    columns: tuple[Column, ...] = ()

    def __post_init__(self) -> None:
        if not self.columns:
            object.__setattr__(self, "columns", columns_of(self.cost))

    @cached_property
    def most(self) -> Counts:
        """The greatest count (n,) of every group."""
        return np.array([int(c[-1]) for c in self.choices], dtype=np.int64)

    @cached_property
    def caps(self) -> list[float]:
        """For every group the least of its own and all later groups' greatest rates."""
        least: list[float] = np.minimum.accumulate((self.most / self.sizes)[::-1])[::-1].tolist()
        return least

    @property
    def least_cost(self) -> int:
        """The MACs that are left if every group gives its maximum."""
        return self.cost(self.before + self.most)

    def check(self, whole: int, what: str = "budget", counted: str = "macs") -> None:
        """Raise UserError if the target cannot be met; `whole` is the unpruned network's cost, in what is counted."""
        if self.target is not None and self.must_meet and self.least_cost > self.target:
            floor = np.ceil(1000 * self.least_cost / whole) / 1000
            raise UserError(
                f"{what} {self.target / whole:.3f} cannot be met: with the groups and max_rate given "
                f"at least {floor:.3f} of the {counted.replace('macs', 'MACs')} stay; raise the {what} or max_rate"
            )

    def window(self, group: int, counts: Counts) -> Window:
        """The window of group number `group`, when the groups before it lost `counts[:group]` in this round."""
        return self._walked(group, counts).window()

    def uniform_rate(self, group: int, counts: Counts) -> float:
        """The rate that spends what is left when applied to this and all later groups, capped at their maxima."""
        return self._walked(group, counts).uniform_rate()

    def _walked(self, group: int, counts: Counts) -> Walk:
        walk = Walk(self)
        for count in counts[:group]:
            walk.take(int(count))
        return walk

    def fill(self, choose: Callable[[int, Window], int]) -> Counts:
        """Counts (n,) of a whole round: for one group after the other `choose(group, its window)`."""
        walk = Walk(self)
        while walk.group < len(self.sizes):
            walk.take(choose(walk.group, walk.window()))
        return walk.counts

    def capped_rate(self, fixed: NDArray[np.float64], group: int) -> float:
        """The rate that meets the target, by bisection, where some groups from `group` on can give less than it.

        Args:
            fixed: What is gone from all groups (n,).
            group: The first that is still to give.
        """
        assert self.target is not None
        target, sizes, most = self.target, self.sizes.astype(np.float64), self.most.astype(np.float64)
        sizes[:group] = most[:group] = 0.0

        def left(rate: float) -> float:
            return float(self.cost.many(fixed + np.minimum(rate * sizes, most))) - target

        low, high = self.caps[group], float((most[group:] / sizes[group:]).max())
        while high - low > 1e-6 and left(high) < 0.0:  # the cost falls monotonically with the rate
            rate = (low + high) / 2
            low, high = (rate, high) if left(rate) > 0.0 else (low, rate)
        return high

    def repair(self, proposal: NDArray[np.float64]) -> Counts:
        """Counts (n,) for proposed rates (n,), scaled by one multiplier so that the budget is met (all groups at once).

        With a target no single step of a filter can be given back afterwards without exceeding it. Without one, the
        proposal is only rounded to the nearest choice. When the target is not to be met, it is only not overshot.
        """
        rates = np.clip(np.asarray(proposal, dtype=np.float64), 0.0, 1.0)
        if self.target is None:
            return self._round(rates)
        if not self.must_meet and self.cost(self.before + self._round(rates)) > self.target:
            return self._round(rates)
        rates = np.maximum(rates, 1e-4)
        low, high = 0.0, float((self.most / (rates * self.sizes)).max()) + 1.0
        for _ in range(60):
            middle = (low + high) / 2
            if self.cost(self.before + self._round(middle * rates)) > self.target:
                low = middle
            else:
                high = middle
            if high - low < 1e-9 * high:
                break
        return self._tighten(self._round(high * rates))

    def _tighten(self, counts: Counts) -> Counts:
        """Give back single steps while the target still holds, last group first."""
        assert self.target is not None
        given = True
        while given:
            given = False
            for group in reversed(range(len(counts))):
                place = int(np.searchsorted(self.choices[group], counts[group]))
                if place == 0:
                    continue
                trial = counts.copy()
                trial[group] = self.choices[group][place - 1]
                if self.cost(self.before + trial) <= self.target:
                    counts, given = trial, True
        return counts

    def _round(self, rates: NDArray[np.float64]) -> Counts:
        wanted = zip(self.choices, rates * self.sizes, strict=True)
        return np.array([int(o[int(place_among(o, count) + 0.5)]) for o, count in wanted], dtype=np.int64)
