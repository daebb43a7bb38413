"""By how much a score fell."""

from __future__ import annotations


def score_drop(baseline: float, score: float) -> float:
    """Baseline minus score, negative for a gain, without the last digits of floating point.

    Scores are counts over counts, and a drop of exactly the tolerance keeps it:

    >>> score_drop(0.9196, 0.8996) <= 0.02, 0.9196 - 0.8996 <= 0.02
    (True, False)
    """
    return round(baseline - score, 9)
