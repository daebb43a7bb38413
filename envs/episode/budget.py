"""The feasible window of pruning counts under a MACs budget, and the map between actions and counts.

MACs (and parameters) are a sum of products of two kept widths, so they are known exactly and at once for any counts,
also for fractional ones. That makes the window of a group cheap: `lo` is what must go now, given that all later groups
can give at most their maximum; `hi` is what may go, given that more would spend more than the budget asks for.
Whatever the actions, the budget is then met to within one filter, and no action is ever clipped.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from rlprune.errors import UserError

if TYPE_CHECKING:
    from rlprune.channels import ChannelGroups

Counts = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class BilinearCost:
    """A cost `constant + sum_t weight[t] * (a[t] - A[t] @ c) * (b[t] - B[t] @ c)` of removed counts `c`.

    Every weight tensor has at most two pruned dimensions, so MACs and parameters both have this form. Shapes:
    `weight`, `a`, `b` (T,), `A`, `B` (T, n) for n groups; all integers, so whole counts give exact costs.
    """

    weight: Counts
    a: Counts
    b: Counts
    A: Counts
    B: Counts
    constant: int = 0
    _floats: tuple[NDArray[np.float64], ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        tables = (self.weight, self.a, self.b, self.A, self.B)
        object.__setattr__(self, "_floats", tuple(np.ascontiguousarray(t, dtype=np.float64) for t in tables))

    def __call__(self, counts: Sequence[int] | Counts) -> int:
        """The exact cost with `counts` (n,) filters removed."""
        weight, a, b, A, B = self._floats  # whole numbers below 2**53 are exact, and floats are fast
        c = np.asarray(counts, dtype=np.float64)
        return int(((a - A @ c) * (b - B @ c)) @ weight) + self.constant

    def many(self, counts: NDArray[np.float64]) -> NDArray[np.float64]:
        """The costs (...) of count vectors (..., n), which may be fractional."""
        weight, a, b, A, B = self._floats
        return np.asarray(((a - counts @ A.T) * (b - counts @ B.T)) @ weight + self.constant)

    def along(self, group: int, counts: Counts, choices: Counts) -> Counts:
        """The exact costs (K,) when group number `group` loses `choices` (K,) filters and the others `counts` (n,)."""
        weight, a, b, A, B = self._floats
        others = counts.astype(np.float64)
        others[group] = 0.0
        a, b = a - A @ others, b - B @ others
        da, db = A[:, group], B[:, group]
        constant, curve = int((a * b) @ weight) + self.constant, int((da * db) @ weight)
        slope = int((da * b + db * a) @ weight)
        return np.asarray(constant + choices * (curve * choices - slope), dtype=np.int64)

    def rate_along(self, counts: NDArray[np.float64], sizes: NDArray[np.float64], target: float) -> float:
        """The least rate r >= 0 at which `counts + r * sizes` costs `target`; infinity if there is none."""
        weight, a, b, A, B = self._floats
        a, b = a - A @ counts, b - B @ counts
        da, db = A @ sizes, B @ sizes
        over = float((a * b) @ weight) + self.constant - target
        slope, curve = float((a * db + b * da) @ weight), float((da * db) @ weight)
        root = slope * slope - 4.0 * curve * over
        if over <= 0.0:
            return 0.0
        return float("inf") if root < 0.0 or slope <= 0.0 else 2.0 * over / (slope + root**0.5)

    def shares(self, sizes: Counts, removed: Counts) -> NDArray[np.float64]:
        """The fraction (n,) of the present cost that would go with each whole group of `sizes` filters."""
        a, b = self.a - self.A @ removed, self.b - self.B @ removed
        slope = (self.weight * b) @ self.A + (self.weight * a) @ self.B
        gain = slope * sizes - (self.weight @ (self.A * self.B)) * sizes * sizes
        return np.asarray(gain / max(1, self(removed)), dtype=np.float64)

    @classmethod
    def of_macs(cls, groups: ChannelGroups, names: Sequence[str]) -> BilinearCost:
        """MACs of all conv and linear layers, as a function of the counts removed from the groups `names`."""
        factors: dict[str, int] = {}
        for layer in groups.layers.values():
            factors[layer.weight] = factors.get(layer.weight, 0) + layer.extent
        shapes = {layer.weight: tuple(layer.shape) for layer in groups.layers.values()}
        return cls._build(groups, names, shapes, factors, groups.fixed_macs)

    @classmethod
    def of_parameters(cls, groups: ChannelGroups, names: Sequence[str]) -> BilinearCost:
        """Parameters, as a function of the counts removed from the groups `names`."""
        touched = {slot.tensor for name in names for slot in groups[name].slots} - groups.buffers
        shapes = {name: tuple(groups.shapes[name]) for name in sorted(touched)}
        rest = groups.parameters - sum(int(np.prod(shape)) for shape in shapes.values())
        return cls._build(groups, names, shapes, dict.fromkeys(shapes, 1), rest)

    @classmethod
    def _build(
        cls,
        groups: ChannelGroups,
        names: Sequence[str],
        shapes: dict[str, tuple[int, ...]],
        factors: dict[str, int],
        constant: int = 0,
    ) -> BilinearCost:
        row = {tensor: number for number, tensor in enumerate(shapes)}
        copies: dict[tuple[str, int], NDArray[np.float64]] = {}
        for column, name in enumerate(names):
            group = groups[name]
            positions: dict[tuple[str, int], list[NDArray[np.int64]]] = {}
            for slot in group.slots:
                if slot.tensor in row:
                    positions.setdefault((slot.tensor, slot.dim), []).append(np.asarray(slot.index).ravel())
            for key, parts in positions.items():
                per_unit = np.unique(np.concatenate(parts)).size / group.size
                copies.setdefault(key, np.zeros(len(names)))[column] = per_unit
        table = np.zeros((2, len(shapes), len(names)))
        width = np.ones((2, len(shapes)))
        weight = np.zeros(len(shapes))
        for tensor, shape in shapes.items():
            dims = [dim for dim in range(len(shape)) if (tensor, dim) in copies]
            if len(dims) > 2:
                raise ValueError(f"{tensor} is pruned along {len(dims)} dimensions; at most two are understood")
            for place, dim in enumerate(dims):
                table[place, row[tensor]] = copies[tensor, dim]
                width[place, row[tensor]] = shape[dim]
            rest = [extent for dim, extent in enumerate(shape) if dim not in dims]
            weight[row[tensor]] = factors[tensor] * int(np.prod(rest, dtype=np.int64))
        w, a, b, A, B = (np.rint(x).astype(np.int64) for x in (weight, width[0], width[1], table[0], table[1]))
        return cls(w, a, b, A, B, constant)


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
