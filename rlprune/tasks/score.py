"""Scores that know how sure they are."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from statistics import NormalDist
from typing import Any

import numpy as np

from rlprune.seeding import numpy_generator

# Draws of a bootstrap: image positions (n,) -> score of those images.
Resample = Callable[[np.ndarray], float]


@dataclass(frozen=True)
class Score:
    """How well a model does on some images.

    Attributes:
        value: Higher is better; a fraction in [0, 1] if `percent`, else of any range.
        n: Number of images.
        metric: What `value` measures, e.g. "accuracy".
        loss: Mean evaluation loss where the task has one, else None.
        percent: Whether the metric is a fraction, which is shown in percent; others (dB, R², negative errors) are shown
            as they are, and so are tolerances on them.
        details: Further named figures in plain numbers, e.g. {"pixel_accuracy": 0.91}.
        resample: The score of any multiset of the images, for the bootstrap.
        draws: Number of its draws for the interval; 0 for a proportion, which has Wilson's.
    """

    value: float
    n: int
    metric: str = "accuracy"
    loss: float | None = None
    percent: bool = field(default=True, kw_only=True)
    details: dict[str, float] = field(default_factory=dict)
    resample: Resample | None = field(default=None, compare=False, repr=False)
    draws: int = field(default=1000, compare=False, repr=False)

    def interval(self, confidence: float = 0.95) -> tuple[float, float] | None:
        """Confidence interval for the sample size: Wilson's for proportions, else percentile bootstrap over images.

        The bootstrap's draws are fixed by `n`, so equal scores give equal intervals. A score that was read back from
        JSON has lost its images: a fraction gets Wilson's interval whatever its metric (too wide rather than too
        narrow for a mean over images, since values in [0, 1] with mean p have a variance of at most p(1 - p)), any
        other score None.
        """
        if self.resample is None or not self.draws:
            return wilson(self.value, self.n, confidence) if self.percent else None
        generator = numpy_generator(0, "bootstrap", self.n)
        draws = [self.resample(generator.integers(0, self.n, self.n)) for _ in range(self.draws)]
        tail = (1.0 - confidence) / 2.0
        low, high = np.quantile(draws, (tail, 1.0 - tail))
        return float(min(low, self.value)), float(max(high, self.value))

    @property
    def error(self) -> float:
        """Standard error of a fraction for the number of images (at most this, if it is no proportion); else 0."""
        inside = self.percent and self.n > 0 and 0.0 < self.value < 1.0
        return math.sqrt(self.value * (1.0 - self.value) / self.n) if inside else 0.0

    def figures(self, role: str) -> dict[str, Any]:
        """What a record says of it: the metric and, by role ("control", "test"), score, 95 % interval and size."""
        bounds = self.interval()
        return {
            "metric": self.metric,
            "percent": self.percent,
            f"{role}_score": self.value,
            f"{role}_interval": list(bounds) if bounds else None,
            f"{role}_size": self.n,
        }

    def to_json(self) -> dict[str, Any]:
        """Plain values: value, n, metric, loss, percent, details."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.repr}


def wilson(proportion: float, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval for a proportion of n independent trials (Wilson 1927, eq. 1).

    >>> low, high = wilson(0.98, 400)
    >>> round(low, 3), round(high, 3)
    (0.961, 0.99)
    """
    if n < 1:
        return 0.0, 1.0
    z = NormalDist().inv_cdf(0.5 + confidence / 2.0)
    centre = (proportion + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(proportion * (1 - proportion) / n + z * z / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)
