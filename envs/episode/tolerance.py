"""The keeper of the tolerance: the one place where a drop is compared with what is allowed."""

from __future__ import annotations

from typing import Generic, TypeVar

from rlprune.drops import score_drop
from rlprune.envs.rules import check_tolerance
from rlprune.errors import UserError
from rlprune.scoring.paired import certainty, margin
from rlprune.tasks import Score

N = TypeVar("N")


class Tolerance(Generic[N]):
    """Knows the baseline and the allowed drop, and remembers the last network inside it.

    Scores may be of any range; higher is better, and the tolerance is in their units.

    Args:
        baseline: The unpruned network's score.
        allowed: The largest drop, >= 0.
        network: The unpruned network, which is inside by definition.
        confidence: Probability with which a drop must be inside; 0 takes it as it is.

    Raises:
        UserError: If a confidence is asked for and the score does not know its examples.

    Attributes:
        accepted: The last network that was accepted.
        score: Its score.

    >>> from rlprune.tasks import Score
    >>> keeper = Tolerance(Score(32.5, 100, metric="PSNR"), 0.5, "whole")
    >>> keeper.accept("half", Score(32.0, 100)), keeper.accept("quarter", Score(31.9, 100)), keeper.accepted
    (True, False, 'half')
    """

    def __init__(self, baseline: Score, allowed: float, network: N, confidence: float = 0.0) -> None:
        check_tolerance("tolerance", allowed)
        if confidence and baseline.resample is None:
            raise UserError(
                f"confidence is {confidence}, and {baseline.metric} has no score by example to say how sure a drop is: "
                "leave it out, or take a metric of examples, such as accuracy"
            )
        self.baseline, self._allowed, self.confidence = baseline, allowed, confidence
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
        """Whether a score keeps the tolerance, as surely as was asked for; one that is NaN does not."""
        if not self.drop(score) <= self._allowed:
            return False
        if not self.confidence or not isinstance(score, Score):
            return True
        sure = certainty(self.baseline, score, self._allowed)
        return sure is None or sure >= self.confidence  # a score that was read back has passed already

    def margin(self, score: Score) -> float:
        """How much further inside than the tolerance a drop like this one must be; 0 without a confidence."""
        return margin(self.baseline, score, self.confidence)

    def accept(self, network: N, score: Score) -> bool:
        """Remember a network if it keeps the tolerance; returns whether it does."""
        if self.inside(score):
            self.accepted, self.score = network, score
            return True
        return False
