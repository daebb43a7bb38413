"""Environments that draw their problem, and environments of recorded scores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env as gymnasium_check
from stable_baselines3.common.env_checker import check_env as sb3_check

from rlprune.agents import make_controller, run_episode
from rlprune.envs import FilterPruningEnv, MixedPruningEnv, Rules, ScoreCache, ScoreTable, TablePruningEnv
from rlprune.envs.arguments import shared_problem
from rlprune.envs.registration import MIXED, TABLE
from rlprune.errors import UserError
from rlprune.spec import ProblemSpec

SMALL = {"control_size": 200, "calibration_size": 128}
PROBLEMS = [{}, {"criterion": "l2"}]


def test_the_mixed_environment_passes_both_checkers_and_survives_json() -> None:
    env = gymnasium.make(MIXED, disable_env_checker=True, problems=PROBLEMS, common=SMALL, budgets=[0.4, 0.6])
    assert env.spec is not None
    again = gymnasium.make(gymnasium.envs.registration.EnvSpec.from_json(env.spec.to_json()))
    np.testing.assert_array_equal(env.reset(seed=3)[0], again.reset(seed=3)[0])
    sb3_check(env.unwrapped, warn=True)
    gymnasium_check(env.unwrapped, skip_render_check=True)


def test_episodes_are_drawn_from_the_sets_by_the_seed() -> None:
    env = MixedPruningEnv(PROBLEMS, SMALL, budgets=[0.4, 0.6], tolerances=[0.1, 0.2])
    drawn = [env.reset(seed=7)[1]] + [env.reset()[1] for _ in range(30)]
    goals = {(info["problem"], info["budget"], info["tolerance"]) for info in drawn}
    assert goals == {(p, b, t) for p in (0, 1) for b in (0.4, 0.6) for t in (0.1, 0.2)}
    assert drawn == [env.reset(seed=7)[1]] + [env.reset()[1] for _ in range(30)]
    _, info = env.reset(options={"problem": 1, "budget": 0.5})
    assert info["problem"] == 1 and env.active.budget.target == int(0.5 * env.active.problem.cost.macs(None))


def test_rules_run_in_it() -> None:
    env = MixedPruningEnv(PROBLEMS, SMALL, budgets=[0.5])
    info = run_episode(env, make_controller("uniform", {"rate": 0.3}), seed=0).info
    assert info["final_macs_share"] <= 0.5
    assert run_episode(env, make_controller("uniform"), seed=0).total_reward == 0.0


def test_goals_that_cannot_be_met_are_found_at_once() -> None:
    with pytest.raises(UserError, match="raise the budget"):
        MixedPruningEnv(PROBLEMS, SMALL, budgets=[0.5, 0.01])
    with pytest.raises(UserError, match="problems is empty"):
        MixedPruningEnv([])
    with pytest.raises(UserError, match="budgets is empty"):
        MixedPruningEnv(PROBLEMS, SMALL, budgets=[])


def play(env: FilterPruningEnv, seed: int) -> tuple[list[Any], dict[str, Any]]:
    generator = np.random.default_rng(seed)
    seen, over = [env.reset()[0].tolist()], False
    while not over:
        observation, reward, over, _, info = env.step(generator.uniform(-1, 1, 1).astype(np.float32))
        seen += [observation.tolist(), reward]
    return seen, info


def test_a_table_serves_what_was_recorded_and_guesses_between(tmp_path: Path) -> None:
    problem = shared_problem(ProblemSpec(**SMALL))
    settings = Rules(one_shot=True, reward="accuracy", budget=0.5, max_rate=0.9)
    cache = ScoreCache(tmp_path / "scores.sqlite")
    env = FilterPruningEnv.from_problem(problem, settings, cache=str(cache.path))
    recorded = [play(env, seed) for seed in range(12)]
    play(FilterPruningEnv.from_problem(problem, settings, recovery="bn", cache=str(cache.path)), 0)  # not its own
    ScoreTable.record(env, cache).save(tmp_path / "table.json")

    table = gymnasium.make(TABLE, table=str(tmp_path / "table.json")).unwrapped
    assert isinstance(table, TablePruningEnv)
    for seed, (seen, info) in enumerate(recorded):
        assert play(table, seed) == (seen, info)
    _, info = play(table, 99)
    assert min(i["score"] for _, i in recorded) <= info["score"] <= problem.baseline.value
    sb3_check(table, warn=True)
    gymnasium_check(table, skip_render_check=True)

    with pytest.raises(UserError, match="holds no score"):
        ScoreTable.record(
            FilterPruningEnv.from_problem(problem, Rules(criterion="l2", one_shot=True), cache=str(cache.path)),
            ScoreCache(tmp_path / "empty.sqlite"),
        )
