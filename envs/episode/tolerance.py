"""The keeper of the tolerance: the one place where a drop is compared with what is allowed."""

from __future__ import annotations

from typing import Generic, TypeVar

from rlprune.drops import score_drop
from rlprune.envs.rules import check_tolerance
from rlprune.errors import UserError
from rlprune.tasks import Score

N = TypeVar("N")


class Tolerance(Generic[N]):
    """Knows the baseline and the allowed drop, and remembers the last network inside it.

    Scores may be of any range; higher is better, and the tolerance is in their units.

    Args:
        baseline: The unpruned network's score.
        allowed: The largest drop, >= 0.
        network: The unpruned network, which is inside by definition.

    Attributes:
        accepted: The last network that was accepted.
        score: Its score.

    >>> from rlprune.tasks import Score
    >>> keeper = Tolerance(Score(32.5, 100, metric="PSNR"), 0.5, "whole")
    >>> keeper.accept("half", Score(32.0, 100)), keeper.accept("quarter", Score(31.9, 100)), keeper.accepted
    (True, False, 'half')
    """

    def __init__(self, baseline: Score, allowed: float, network: N) -> None:
        check_tolerance("tolerance", allowed)
        self.baseline, self._allowed = baseline, allowed
        self.accepted, self.score = network, baseline

    @property
    def allowed(self) -> float:
        """The largest drop. It can be changed, but not to less than what the accepted network dropped."""
        return self._allowed

    @allowed.setter
    def allowed(self, allowed: float) -> None:
        check_tolerance("tolerance", allowed)
        if self.drop(self.score) > allowed:
            raise UserError(
                f"tolerance {allowed} is less than the {self.drop(self.score)} that the accepted network dropped; "
                "start anew, or allow at least that"
            )
        self._allowed = allowed

    def drop(self, score: Score | float) -> float:
        """Baseline minus score; negative for a gain."""
        return score_drop(self.baseline.value, score.value if isinstance(score, Score) else score)

    def inside(self, score: Score | float) -> bool:
        """Whether a score keeps the tolerance; one that is NaN does not."""
        return self.drop(score) <= self._allowed

    def accept(self, network: N, score: Score) -> bool:
        """Remember a network if it keeps the tolerance; returns whether it does."""
        if self.inside(score):
            self.accepted, self.score = network, score
            return True
        return False
