"""The counts that are feasible for one group, and the map between them and actions."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

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

    @cached_property
    def uniform_rate(self) -> float:
        """The rate that action 0 stands for, before rounding."""
        low = int(self.centre)
        below, above = int(self.choices[low]), int(self.choices[min(low + 1, len(self.choices) - 1)])
        return (below + (self.centre - low) * (above - below)) / self.size

    def count(self, action: float) -> int:
        """The number of filters that `action` in [-1, 1] removes."""
        last = len(self.choices) - 1
        action = min(1.0, max(-1.0, action))
        reach = self.centre + 0.5 if action < 0 else last + 0.5 - self.centre
        place = math.floor(self.centre + action * reach + 0.5)
        return int(self.choices[min(last, max(0, place))])

    def action(self, count: int) -> float:
        """The action in the middle of `count`'s interval; raises UserError if the count is not feasible."""
        place = bisect_left(self.choices, count)
        if place == len(self.choices) or self.choices[place] != count:
            raise UserError(
                f"removing {count} of {self.size} filters is not feasible here; "
                f"the window allows {self.lo} to {self.hi}: use window.nearest(count)"
            )
        off = place - self.centre
        return off / (self.centre + 0.5 if off < 0 else len(self.choices) - 0.5 - self.centre)

    def nearest(self, count: float) -> int:
        """The feasible count nearest to `count`; of two equally near ones the greater."""
        above = min(bisect_left(self.choices, count), len(self.choices) - 1)
        low, high = int(self.choices[max(0, above - 1)]), int(self.choices[above])
        return low if count - low < high - count else high


def place_among(options: Counts, count: float) -> float:
    """Where the fractional `count` lies among ascending options, in [0, len - 1]."""
    above = bisect_right(options, count)
    if above == 0:
        return 0.0
    if above == len(options):
        return float(above - 1)
    low, high = int(options[above - 1]), int(options[above])
    return above - 1 + (count - low) / (high - low)
