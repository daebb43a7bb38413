"""The feasible window of pruning counts under a MACs budget, and the map between actions and counts.

MACs (and parameters) are a sum of products of two kept widths, so they are known exactly and at once for any counts,
also for fractional ones. That makes the window of a group cheap: `lo` is what must go now, given that all later groups
can give at most their maximum; `hi` is what may go, given that more would spend more than the budget asks for.
Whatever the actions, the budget is then met to within one filter, and no action is ever clipped.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from rlprune.cost import BilinearCost
from rlprune.errors import UserError

Counts = NDArray[np.int64]


def choices(size: int, most: int, round_to: int = 1) -> Counts:
    """The counts (K,) that may go from a group of `size` filters: 0, and what leaves a multiple of `round_to`.

    >>> choices(10, 7, round_to=4).tolist()
    [0, 2, 6]
    """
    first = size % round_to
    steps = np.arange(first, max(0, most) + 1, round_to, dtype=np.int64)
    return steps if first == 0 else np.concatenate([np.zeros(1, dtype=np.int64), steps])


@dataclass(frozen=True, eq=False)
class Window:
    """The counts that are feasible for one group, and the centred map from [-1, 1] onto them.

    The map is monotone and linear on either side of 0, where the uniform rate sits; -1 and 1 are the window's ends and
    every count owns one interval of actions. `centre` is the uniform rate's place among `choices`, a fraction.
    """

    size: int
    choices: Counts
    centre: float

    @property
    def lo(self) -> int:
        """The least count."""
        return int(self.choices[0])

    @property
    def hi(self) -> int:
        """The greatest count."""
        return int(self.choices[-1])

    @property
    def rates(self) -> tuple[float, float]:
        """The least and the greatest rate."""
        return self.lo / self.size, self.hi / self.size

    @property
    def uniform_rate(self) -> float:
        """The rate that action 0 stands for, before rounding."""
        return float(np.interp(self.centre, np.arange(len(self.choices)), self.choices)) / self.size

    def count(self, action: float) -> int:
        """The number of filters that `action` in [-1, 1] removes."""
        last = len(self.choices) - 1
        action = min(1.0, max(-1.0, action))
        reach = self.centre + 0.5 if action < 0 else last + 0.5 - self.centre
        place = int(np.floor(self.centre + action * reach + 0.5))
        return int(self.choices[min(last, max(0, place))])

    def action(self, count: int) -> float:
        """The action in the middle of `count`'s interval; raises UserError if the count is not feasible."""
        place = int(np.searchsorted(self.choices, count))
        if place == len(self.choices) or self.choices[place] != count:
            raise UserError(
                f"removing {count} of {self.size} filters is not feasible here; "
                f"the window allows {self.lo} to {self.hi}: use window.nearest(count)"
            )
        off = place - self.centre
        return off / (self.centre + 0.5 if off < 0 else len(self.choices) - 0.5 - self.centre)

    def nearest(self, count: float) -> int:
        """The feasible count nearest to `count`; of two equally near ones the greater."""
        distance = np.abs(self.choices - count)
        return int(self.choices[len(distance) - 1 - int(np.argmin(distance[::-1]))])


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
    """

    cost: BilinearCost
    before: Counts
    sizes: Counts
    choices: tuple[Counts, ...]
    target: int | None
    must_meet: bool = True
    default_rate: float = 0.25

    @cached_property
    def most(self) -> Counts:
        """The greatest count (n,) of every group."""
        return np.array([int(c[-1]) for c in self.choices], dtype=np.int64)

    @property
    def least_cost(self) -> int:
        """The MACs that are left if every group gives its maximum."""
        return self.cost(self.before + self.most)

    def check(self, whole: int) -> None:
        """Raise UserError if the target cannot be met; `whole` is the unpruned network's MACs."""
        if self.target is not None and self.must_meet and self.least_cost > self.target:
            floor = np.ceil(1000 * self.least_cost / whole) / 1000
            raise UserError(
                f"budget {self.target / whole:.3f} cannot be met: with the groups and max_rate given "
                f"at least {floor:.3f} of the MACs stay; raise the budget or max_rate"
            )

    def window(self, group: int, counts: Counts) -> Window:
        """The window of group number `group`, when the groups before it lost `counts[:group]` in this round."""
        size, options = int(self.sizes[group]), self.choices[group]
        if self.target is None:
            return Window(size, options, self._place(options, self.default_rate * size))
        done = self.before.copy()
        done[:group] += counts[:group]
        own = int(self.before[group])
        met = self.cost.along(group, done, own + options) <= self.target
        last = int(np.argmax(met)) if met.any() else len(options) - 1
        first = 0
        if self.must_meet:
            rest = done.copy()
            rest[group + 1 :] += self.most[group + 1 :]
            met = self.cost.along(group, rest, own + options) <= self.target
            first = min(last, int(np.argmax(met)) if met.any() else len(options) - 1)
        rate = self.uniform_rate(group, counts)
        if not self.must_meet:
            rate = min(rate, self.default_rate)
        options = options[first : last + 1]
        return Window(size, options, self._place(options, rate * size))

    def uniform_rate(self, group: int, counts: Counts) -> float:
        """The rate that spends what is left when applied to this and all later groups, capped at their maxima."""
        assert self.target is not None
        target = self.target
        fixed = self.before.astype(np.float64)
        fixed[:group] += counts[:group]
        sizes, most = self.sizes.astype(np.float64), self.most.astype(np.float64)
        sizes[:group] = most[:group] = 0.0
        caps = most[group:] / sizes[group:]
        rate = self.cost.rate_along(fixed, sizes, target)
        if rate <= float(caps.min()):
            return rate

        def left(rate: float) -> float:
            return float(self.cost.many(fixed + np.minimum(rate * sizes, most))) - target

        low, high = float(caps.min()), float(caps.max())
        while high - low > 1e-6 and left(high) < 0.0:  # the cost falls monotonically with the rate
            rate = (low + high) / 2
            low, high = (rate, high) if left(rate) > 0.0 else (low, rate)
        return high

    def fill(self, choose: Callable[[int, Counts, Window], int]) -> Counts:
        """Counts (n,) of a whole round: for one group after the other `choose(group, counts so far, its window)`."""
        counts = np.zeros(len(self.sizes), dtype=np.int64)
        for group in range(len(counts)):
            counts[group] = choose(group, counts, self.window(group, counts))
        return counts

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
        return np.array([int(o[int(self._place(o, count) + 0.5)]) for o, count in wanted], dtype=np.int64)

    @staticmethod
    def _place(options: Counts, count: float) -> float:
        """Where the fractional `count` lies among the options, in [0, len - 1]."""
        return float(np.interp(count, options, np.arange(len(options))))
