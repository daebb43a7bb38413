"""How sure a drop is: two networks scored on the same examples, drawn anew together (paired bootstrap)."""

from __future__ import annotations

import numpy as np

from rlprune.drops import score_drop
from rlprune.seeding import numpy_generator
from rlprune.tasks.score import Score

DRAWS = 1000


def drawn_drops(before: Score, after: Score) -> np.ndarray | None:
    """Drops on examples drawn anew, the same for both networks, (draws,); None where the examples are not known.

    Efron and Tibshirani 1993, *An introduction to the bootstrap*. Only what the two networks get differently counts:
    a hundred images that both have right say nothing. The draws are fixed by the number of examples.
    """
    if before.resample is None or after.resample is None or before.n != after.n:
        return None
    generator = numpy_generator(0, "paired", before.n)
    drawn = (generator.integers(0, before.n, before.n) for _ in range(before.draws or DRAWS))
    return np.array([score_drop(before.resample(index), after.resample(index)) for index in drawn])


def certainty(before: Score, after: Score, tolerance: float) -> float | None:
    """Probability in (0, 1) that the drop is inside a tolerance, not only on these examples; None if not known."""
    drops = drawn_drops(before, after)
    return None if drops is None else float(((drops <= tolerance).sum() + 1) / (len(drops) + 2))


def margin(before: Score, after: Score, confidence: float) -> float:
    """What must be added to a drop so that the true one is below with this probability, >= 0; 0 if not known."""
    drops = drawn_drops(before, after) if confidence else None
    if drops is None:
        return 0.0
    return max(0.0, float(np.quantile(drops, confidence, method="higher")) - score_drop(before.value, after.value))
