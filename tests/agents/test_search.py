"""Searches count what they spend, play what they found, and find what is there."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from rlprune.agents import make_controller, run_episode
from rlprune.agents.controllers.search import CrossEntropySearch, RandomSearch, Search
from rlprune.envs import FilterPruningEnv, Rules
from rlprune.envs.arguments import shared_problem
from rlprune.envs.toy import ToyPruningEnv
from rlprune.errors import UserError
from rlprune.problem import PruningProblem
from rlprune.spec import ProblemSpec


@pytest.fixture(scope="module")
def problem() -> PruningProblem:
    return shared_problem(ProblemSpec(control_size=200, calibration_size=128))


def one_shot(problem: PruningProblem, **rules: Any) -> FilterPruningEnv:
    settings = Rules(**{"one_shot": True, "reward": "accuracy", "budget": 0.5, "max_rate": 0.9, **rules})
    return FilterPruningEnv.from_problem(problem, settings)


@pytest.mark.parametrize("name", ["random", "cem"])
def test_a_search_plays_the_best_it_tried_and_costs_what_it_says(problem: PruningProblem, name: str) -> None:
    env, rule = one_shot(problem), make_controller(name, {"episodes": 8})
    assert isinstance(rule, Search)
    told: list[int] = []
    rule.on_trial = lambda done, total, best: told.append(done)
    before = problem.ledger.evaluations
    episode = run_episode(env, rule)
    distinct = len({trial.counts.tobytes() for trial in rule.trials})
    assert problem.ledger.evaluations - before == distinct + 1  # the best is played, and then scored on all images
    assert told == list(range(1, 9))
    assert episode.total_reward == max(trial.reward for trial in rule.trials)
    assert episode.info["final_macs_share"] <= 0.5
    again = make_controller(name, {"episodes": 8})
    assert run_episode(one_shot(problem), again).info == episode.info


def test_a_search_runs_in_every_round_of_an_iterative_episode(problem: PruningProblem) -> None:
    env = FilterPruningEnv.from_problem(problem, Rules(tolerance=0.05, max_rate=0.3, rounds=2))
    info = run_episode(env, RandomSearch(episodes=4)).info
    assert info["final_drop"] <= 0.05


def test_cross_entropy_finds_the_known_optimum() -> None:
    env = ToyPruningEnv()
    optimum, uniform = env.optimum, env.uniform_score
    rule = CrossEntropySearch(episodes=600)
    reward = run_episode(env, rule).total_reward
    assert uniform < reward <= optimum
    assert reward > optimum - 0.05 * (optimum - uniform)
    assert reward > run_episode(env, RandomSearch(episodes=600)).total_reward


def test_cross_entropy_starts_where_it_is_told(problem: PruningProblem) -> None:
    env = one_shot(problem)
    rates, sizes = {}, env.scope.sizes
    for name in ("uniform", "error"):
        plan = run_episode(env, make_controller(name)).info["plan"]
        rates[name] = np.array([len(plan.get(group, ())) for group in env.scope.names]) / sizes
    for name, other in (("uniform", "error"), ("error", "uniform")):
        rule = CrossEntropySearch(episodes=1, start=name)
        run_episode(env, rule)
        tried = rule.trials[0].counts / sizes
        assert np.abs(tried - rates[name]).sum() < np.abs(tried - rates[other]).sum()


def test_numbers_that_cannot_be_are_refused() -> None:
    with pytest.raises(UserError, match="episodes is 0"):
        RandomSearch(episodes=0)
    with pytest.raises(UserError, match="elite is 0"):
        CrossEntropySearch(elite=0.0)
    with pytest.raises(UserError, match="start 'nowhere'"):
        CrossEntropySearch(start="nowhere")
