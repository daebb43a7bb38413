"""A candidate that cannot win any more is scored no further, and nothing else changes."""

from __future__ import annotations

import numpy as np
import pytest

from rlprune.agents.controllers.search import CrossEntropySearch, RandomSearch
from rlprune.envs import FilterPruningEnv, Rules
from rlprune.problem import PruningProblem
from rlprune.scoring.racing import Heat, Race
from rlprune.spec import ProblemSpec


def heat(*right: bool, images: int) -> Heat:
    return Heat(np.array(right, bool), images)


def test_the_most_that_a_candidate_can_still_score_holds_in_99_of_100():
    generator = np.random.default_rng(0)
    images, seen, trials, above = 2000, 200, 3000, 0
    for _ in range(trials):
        hard = generator.random(images)
        rival, own = hard < 0.8, (hard < 0.72) ^ (generator.random(images) < 0.1)
        found = Heat(own[:seen], images).most(Heat(rival, images))
        above += own.mean() > found
    assert 0.002 < above / trials < 0.02


def test_no_difference_among_a_few_images_proves_nothing():
    rival = Heat(np.ones(1000, bool), 1000)
    assert heat(*[True] * 100, images=1000).most(rival) > 1.03
    assert Heat(np.ones(1000, bool), 1000).most(rival) == 1.0


@pytest.fixture(scope="module")
def problem() -> PruningProblem:
    return ProblemSpec(control_size=400, calibration_size=60).build()


def test_one_that_is_beaten_is_stopped_and_goes_on_from_there(problem):
    evaluator, model = problem.fresh().evaluator, problem.model
    race = Race.over(evaluator, problem.baseline, 0)
    assert race is not None and race.images == 400
    whole = race.run("whole", lambda: model, None, lambda most: True)
    assert whole.complete and whole.value == problem.baseline.value
    beaten = race.run("other", lambda: model, whole, lambda most: True)
    assert beaten.seen == 100 and np.array_equal(beaten.right, whole.right[:100])
    again = race.run("other", lambda: pytest.fail("it was scored before"), whole, lambda most: True)
    assert again is beaten
    assert evaluator.ledger.evaluations == 2 and evaluator.ledger.images_evaluated == 500
    assert race.run("other", lambda: model, whole, lambda most: most < 0.5).complete
    assert evaluator.ledger.images_evaluated == 800


def test_no_race_where_scores_are_no_shares_of_known_images(problem):
    assert Race.over(problem.evaluator, problem.baseline, 0) is not None
    assert Race.over(ProblemSpec(control_size=150).build().evaluator, problem.baseline, 0) is None
    inputs, labels = next(problem.data.control.batches(400))
    live = PruningProblem(problem.model, control=[(inputs, labels)])
    assert Race.over(live.evaluator, live.baseline, 0) is None
    own = PruningProblem(problem.model, evaluate=lambda model: 1.0, example_inputs=(inputs[:1],))
    assert Race.over(own.evaluator, own.baseline, 0) is None


@pytest.mark.parametrize("search", [RandomSearch(24), CrossEntropySearch(24, population=12)])
def test_a_search_finds_the_same_schedule_on_fewer_images(search, problem):
    found = []
    for racing in (False, True):
        own = problem.fresh()
        env = FilterPruningEnv.from_problem(own, Rules(one_shot=True, budget=0.12, max_rate=0.9, reward="accuracy"))
        env.reset(seed=0)
        search.racing = racing
        search.bind(env)
        found.append((search.plan(), search.best.reward, own.ledger.images_evaluated))
        env.close()
    (plan, reward, images), (raced, same, fewer) = found
    assert raced == plan and same == reward
    assert fewer < 0.9 * images
