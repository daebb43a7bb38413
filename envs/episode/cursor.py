"""A cost that is followed while filters go, group by group."""

from __future__ import annotations

import numpy as np

from rlprune.cost import BilinearCost
from rlprune.envs.episode.window import Counts

Column = tuple[tuple[int, int, int, int], ...]
"""What a group touches of a cost: tensor, its weight, and by how much a filter narrows its two widths."""


def columns_of(cost: BilinearCost) -> tuple[Column, ...]:
    """What every group touches of a cost."""
    found: list[list[tuple[int, int, int, int]]] = [[] for _ in range(cost.A.shape[1])]
    weight, A, B = cost.weight.tolist(), cost.A, cost.B
    for row, group in np.argwhere((A != 0) | (B != 0)).tolist():
        found[group].append((row, weight[row], int(A[row, group]), int(B[row, group])))
    return tuple(map(tuple, found))


class Cursor:
    """The exact cost at counts that are changed one group at a time, at a price that does not grow with the groups.

    Attributes:
        a, b: The two widths of every tensor (T,).
        total: The cost.
    """

    def __init__(self, cost: BilinearCost, columns: tuple[Column, ...], counts: Counts) -> None:
        self.columns = columns
        self.a: list[int] = (cost.a - cost.A @ counts).tolist()
        self.b: list[int] = (cost.b - cost.B @ counts).tolist()
        self.total = cost(counts)

    def along(self, group: int) -> tuple[int, int]:
        """Slope s and curve c: with k filters more gone from `group` the cost is total - s k + c k^2."""
        slope = curve = 0
        for row, weight, da, db in self.columns[group]:
            slope += weight * (da * self.b[row] + db * self.a[row])
            curve += weight * da * db
        return slope, curve

    def move(self, group: int, count: int) -> None:
        """Take `count` filters more from `group`."""
        a, b = self.a, self.b
        for row, weight, da, db in self.columns[group]:
            before = a[row] * b[row]
            a[row] -= da * count
            b[row] -= db * count
            self.total += weight * (a[row] * b[row] - before)
