"""Racing: candidates are scored on the same images in the same random order, and one that is beaten is stopped.

Races for choosing among models are Maron and Moore's (1994, *Hoeffding races*); here differences are paired image by
image, and how a candidate would do on all images is estimated from those seen, of a finite number.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray
from torch import nn

from rlprune.data.splits import Split
from rlprune.scoring.evaluation import Evaluator
from rlprune.seeding import numpy_generator
from rlprune.tasks.score import Score

PARTS, LEAST = 10, 100  # parts at most, and images in one at least
BEATEN = NormalDist().inv_cdf(0.99)
FEW = 2.0  # images: no difference among so many that were seen is no proof that there is none
REMEMBERED = 1024  # candidates


@dataclass(frozen=True, eq=False)
class Heat:
    """How a candidate did.

    Attributes:
        right: Of the images seen, in the race's order, which it has right, (seen,) bool.
        images: How many there are.
    """

    right: NDArray[np.bool_]
    images: int

    @property
    def seen(self) -> int:
        """Images that it was scored on."""
        return len(self.right)

    @property
    def complete(self) -> bool:
        """Whether it was scored on all images."""
        return self.seen == self.images

    @property
    def value(self) -> float:
        """Its score on the images seen."""
        return float(self.right.mean())

    def most(self, rival: Heat) -> float:
        """What it would score on all images at most, with a probability of 99 %, where `rival` is complete.

        What is left is a sample of as many images as are left, and so is what was seen: the mean over all varies about
        that of the seen by s^2 (1/seen - 1/images).
        """
        gains = self.right.astype(float) - rival.right[: self.seen]
        variance = max(float(gains.var()), FEW**2 / self.seen)
        return rival.value + float(gains.mean()) + BEATEN * math.sqrt(variance * (1 / self.seen - 1 / self.images))


class Race:
    """Scores networks on the control images, part by part, where a score is a share of images that are right.

    Args:
        evaluator: Scores them, and counts the images they were really scored on.
        seed: Of the order of the images.
    """

    def __init__(self, evaluator: Evaluator, seed: int = 0) -> None:
        self._evaluator = evaluator
        control = evaluator.data.split("control")
        self.images = len(control)
        order = numpy_generator(seed, "race").permutation(self.images)
        pieces = np.array_split(order, min(PARTS, self.images // LEAST))
        self._parts = [Split(control.source, control.positions[np.sort(piece)], control.role) for piece in pieces]
        self._ends = np.cumsum([len(part) for part in self._parts])
        self._known: dict[str, Heat] = {}

    @classmethod
    def over(cls, evaluator: Evaluator, baseline: Score, seed: int) -> Race | None:
        """A race; None where scores are no shares of images, the images come from a loader, or are too few."""
        if type(evaluator) is not Evaluator or baseline.resample is None or baseline.draws:
            return None
        control = evaluator.data.split("control")
        return cls(evaluator, seed) if isinstance(control, Split) and len(control) >= 2 * LEAST else None

    def run(
        self, key: str, network: Callable[[], nn.Module], rival: Heat | None, beaten: Callable[[float], bool]
    ) -> Heat:
        """Score a network until all images are seen or it is beaten.

        Args:
            key: Equal for equal networks: one that was scored before goes on from there.
            network: Makes the candidate.
            rival: Who is in front; None stops nobody.
            beaten: Whether the rival stays in front of a candidate with this score.
        """
        heat = self._known.pop(key, None) or Heat(np.zeros(0, bool), self.images)

        def over() -> bool:
            return heat.complete or bool(rival is not None and heat.seen and beaten(heat.most(rival)))

        if not over():
            left = [part for part, end in zip(self._parts, self._ends, strict=True) if end > heat.seen]
            for score in self._evaluator.score_parts(network(), left):
                heat = Heat(np.concatenate([heat.right, _right(score)]), self.images)
                if over():
                    break
        self._known[key] = heat
        if len(self._known) > REMEMBERED:
            self._known.pop(next(iter(self._known)))
        return heat


def _right(score: Score) -> NDArray[np.bool_]:
    """Which images are right, (n,)."""
    assert score.resample is not None
    return np.array([score.resample(np.array([image])) > 0.5 for image in range(score.n)])
