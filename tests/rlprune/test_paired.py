"""How sure a drop is."""

from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlprune.agents.runs.recipes import get_recipe
from rlprune.envs import FilterPruningEnv, Rules
from rlprune.envs.episode.tolerance import Tolerance
from rlprune.errors import UserError
from rlprune.scoring.paired import certainty, margin
from rlprune.spec import ProblemSpec
from rlprune.tasks.score import Score


def score_of(right: np.ndarray) -> Score:
    return Score(
        float(right.mean()), len(right), resample=partial(lambda table, index: float(table[index].mean()), right)
    )


def answers(n: int, lost: int, won: int) -> tuple[Score, Score]:
    """Two networks of which the second has `lost` images wrong that the first has right, and the reverse for `won`."""
    before = np.ones(n, dtype=bool)
    before[:won] = False
    after = np.ones(n, dtype=bool)
    after[won : won + lost] = False
    return score_of(before), score_of(after)


def test_images_that_both_have_right_say_nothing() -> None:
    """Four images lost and none won is surer to stay inside 2 % than 24 lost and 20 won: the same drop."""
    few, many = certainty(*answers(400, 4, 0), 0.02), certainty(*answers(400, 24, 20), 0.02)
    assert few is not None and many is not None and few > 0.9 > many > 0.5


def test_it_is_the_normal_approximation_where_that_holds() -> None:
    """Of 5,000 images 130 lost, 80 won: z = (0.012 - 0.01) / sqrt(0.042 - 0.01²) * sqrt(5000) = 0.69."""
    sure = certainty(*answers(5000, 130, 80), 0.012)
    assert sure == pytest.approx(0.755, abs=0.04)
    assert margin(*answers(5000, 130, 80), 0.755) == pytest.approx(0.002, abs=0.0004)


@settings(max_examples=20, deadline=None)
@given(lost=st.integers(0, 20), won=st.integers(0, 20), tolerance=st.floats(0, 0.1))
def test_more_tolerance_is_never_less_sure(lost: int, won: int, tolerance: float) -> None:
    pair = answers(100, lost, won)
    less, more = certainty(*pair, tolerance), certainty(*pair, tolerance + 0.01)
    assert less is not None and more is not None and 0 < less <= more < 1


def test_the_keeper_asks_for_it() -> None:
    before, after = answers(400, 8, 4)  # a drop of exactly the tolerance
    assert Tolerance(before, 0.01, "whole").inside(after)
    assert not Tolerance(before, 0.01, "whole", 0.9).inside(after)
    assert Tolerance(before, 0.03, "whole", 0.9).inside(after)
    with pytest.raises(UserError, match="confidence"):
        Tolerance(Score(0.9, 100, "score"), 0.01, "whole", 0.9)


def test_a_surer_run_drops_less(tmp_path) -> None:
    """What is handed back is inside with the probability asked for, and the record says with which."""
    from rlprune.agents.runs.prune import prune_problem

    problem = ProblemSpec(calibration_size=128).build()
    sure = prune_problem(
        problem, get_recipe("uniform").change(tolerance=0.01, confidence=0.9, epochs=12.0), timed=False
    )
    plain = prune_problem(problem, get_recipe("uniform").change(tolerance=0.01, epochs=12.0), timed=False)
    assert sure.record["pruned"]["certainty"] >= 0.9 and sure.macs >= plain.macs
    edge = 0.01 - 1 / problem.baseline.n  # an image inside is not sure enough, and good enough for the plain rule
    assert not any(line["accepted"] and line["drop"] > edge for line in sure.record["rounds"])
    assert all(line["accepted"] == (line["drop"] <= 0.01) for line in plain.record["rounds"])
    with pytest.raises(UserError, match="cache"):
        FilterPruningEnv.from_problem(problem, Rules(confidence=0.9), cache=str(tmp_path / "scores.db"))
    with pytest.raises(UserError, match=r"confidence is 1\.5"):
        Rules(confidence=1.5)
