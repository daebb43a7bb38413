"""Statistics of a comparison: what a handful of seeds and a few hundred images can say, and what they cannot."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, TypeVar

import numpy as np
import scipy  # its parts are imported when they are used: a run that compares nothing starts without them

T = TypeVar("T")
K = TypeVar("K", bound=Hashable)
SURE = NormalDist().inv_cdf(0.975)
LEVEL = 1e-9  # means closer than this are equal but for floating point


@dataclass(frozen=True)
class Interval:
    """A mean and its confidence interval.

    Attributes:
        mean: The sample mean.
        low: Lower end; None where one value leaves it unknown.
        high: Upper end, or None.
        n: How many values.
    """

    mean: float
    low: float | None
    high: float | None
    n: int


@dataclass(frozen=True)
class Paired:
    """Differences of two schedules on the same seeds.

    Attributes:
        difference: Mean of theirs minus the baseline's, with its interval.
        wins: On how many seeds they score higher.
        losses: On how many lower.
        ties: On how many equal.
    """

    difference: Interval
    wins: int
    losses: int
    ties: int


@dataclass(frozen=True)
class Rank:
    """Where a schedule stands among the others.

    Attributes:
        name: The schedule.
        mean_rank: Mean of its ranks over the blocks; 1 is best, ties share the mean of their ranks.
        firsts: In how many blocks nobody scores higher.
        blocks: In how many blocks it was ranked.
    """

    name: str
    mean_rank: float
    firsts: int
    blocks: int


def grouped(items: Iterable[T], key: Callable[[T], K]) -> dict[K, list[T]]:
    """Items by a key, both in the order in which they come."""
    groups: dict[K, list[T]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups


def mean_interval(values: Sequence[float], confidence: float = 0.95) -> Interval:
    """Mean with Student's t interval, for values of independent seeds.

    >>> mean_interval([0.9, 0.9, 0.9])
    Interval(mean=0.9, low=0.9, high=0.9, n=3)
    """
    if not values:
        raise ValueError("mean_interval needs at least one value")
    n = len(values)
    mean = math.fsum(values) / n
    if n == 1:
        return Interval(mean, None, None, 1)
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1))
    half = float(scipy.stats.t.ppf(0.5 + confidence / 2, n - 1)) * deviation / math.sqrt(n)
    return Interval(mean, mean - half, mean + half, n)


def paired_differences(theirs: Mapping[Any, float], baseline: Mapping[Any, float]) -> Paired | None:
    """Compare on the keys (seeds, models ...) that both have; None if they share none.

    Pairing takes out what a seed does to both alike (its data split, its starting point), which is most of the
    spread between seeds.
    """
    differences = [theirs[key] - baseline[key] for key in theirs if key in baseline]
    if not differences:
        return None
    signs = [(d > LEVEL) - (d < -LEVEL) for d in differences]
    return Paired(mean_interval(differences), signs.count(1), signs.count(-1), signs.count(0))


def rank_table(blocks: Mapping[Any, Mapping[str, float]]) -> list[Rank]:
    """Mean ranks over blocks (a block: one model, data set, goal and seed), best first.

    A block in which a schedule is missing, because its run failed, says nothing fair about the others and is left out.

    Args:
        blocks: For every block the schedules' scores, higher is better.
    """
    names = sorted({name for block in blocks.values() for name in block})
    whole = [block for block in blocks.values() if len(block) == len(names)]
    if not whole:
        return []
    ranks = scipy.stats.rankdata([[-block[name] for name in names] for block in whole], axis=1)
    best = [max(block.values()) for block in whole]
    table = [
        Rank(
            name,
            float(ranks[:, column].mean()),
            sum(block[name] == top for block, top in zip(whole, best, strict=True)),
            len(whole),
        )
        for column, name in enumerate(names)
    ]
    return sorted(table, key=lambda row: (row.mean_rank, row.name))


def spearman(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Rank correlation in [-1, 1]; None for fewer than three pairs or where one side is constant.

    With scores before and after fine-tuning it is the quality of the cheap score as a proxy: 1 says that whoever
    leads before leads after.
    """
    if len(first) != len(second):
        raise ValueError(f"spearman needs pairs, got {len(first)} and {len(second)} values")
    if len(first) < 3 or len(set(first)) == 1 or len(set(second)) == 1:
        return None
    return float(np.clip(scipy.stats.spearmanr(first, second).statistic, -1.0, 1.0))


def resolution(accuracy: float, n: int) -> float:
    """The smallest difference of two accuracies that `n` images can tell apart, with 95 %.

    The half-width of the difference of two independent binomial proportions. Two networks that see the same images
    agree on most of them, so what can be told apart is in truth somewhat less: this is the cautious figure.

    >>> round(resolution(0.9, 2000), 4)
    0.0186
    """
    # Agresti and Caffo's two added successes and failures keep the bound from vanishing at an accuracy of 1.
    smoothed = (accuracy * n + 1) / (n + 2)
    return SURE * math.sqrt(2 * smoothed * (1 - smoothed) / (n + 2))


def images_needed(accuracy: float, difference: float) -> int:
    """How many images would tell two accuracies apart that differ by `difference` > 0."""
    p = min(max(accuracy, 0.01), 0.99)
    return math.ceil(2 * p * (1 - p) * (SURE / difference) ** 2)
