"""MACs and parameters as exact functions of the counts removed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

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
