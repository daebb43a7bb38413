"""A problem at hand in an environment: shared, never changed, and told apart from names."""

from __future__ import annotations

import copy
import random
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env as gymnasium_check
from stable_baselines3.common.env_checker import check_env as sb3_check
from torch import nn

from rlprune.agents import load_agent
from rlprune.agents.rl import assets
from rlprune.agents.rl.training import train
from rlprune.envs import AroundAdvice, FilterPruningEnv, MixedPruningEnv, make_env
from rlprune.envs.arguments import shared_problem
from rlprune.envs.registration import ITERATIVE, LAYERWISE, MIXED
from rlprune.errors import UserError
from rlprune.problem import PruningProblem
from rlprune.spec import ProblemSpec

SMALL = {"control_size": 200, "calibration_size": 128}


@pytest.fixture(scope="module")
def problem() -> PruningProblem:
    named = shared_problem(ProblemSpec(**SMALL))
    return PruningProblem(named.model, named.data)


def play(env: gymnasium.Env[Any, Any]) -> list[Any]:
    seen: list[Any] = [env.reset(seed=0)[0].tolist()]
    over = False
    while not over:
        observation, reward, terminated, truncated, info = env.step(np.full(1, -0.2, np.float32))
        seen.append((observation.tolist(), reward, info))
        over = terminated or truncated
    return seen


@pytest.mark.parametrize(("env_id", "game"), [(ITERATIVE, "iterative"), (LAYERWISE, "layerwise")])
def test_by_name_at_hand_and_by_make_env_it_is_one_environment(problem: PruningProblem, env_id: str, game: str) -> None:
    rules: dict[str, Any] = {"tolerance": 0.02, "skip": ["linear"], "rounds": 3}
    made = gymnasium.make(env_id, problem=problem, **rules)
    assert made.unwrapped.problem is problem  # type: ignore[attr-defined]
    assert AroundAdvice(made).spec is not None, "a copied spec has the problem itself"
    short = make_env(game, problem, **rules)
    assert play(made) == play(short) == play(gymnasium.make(env_id, **rules, **SMALL))
    before = copy.deepcopy(problem.model.state_dict())
    assert all(torch.equal(before[name], tensor) for name, tensor in problem.model.state_dict().items())
    sb3_check(make_env(game, problem), warn=True)
    gymnasium_check(make_env(game, problem, render_mode="ansi"), skip_render_check=True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"model": nn.Conv2d(1, 8, 3)}, "model is a Conv2d; .*problem="),
        ({"model": lambda: nn.Conv2d(1, 8, 3)}, "model is a function; .*problem="),
        ({"data": [torch.rand(8, 1, 8, 8)]}, "data is a list; .*problem="),
        ({"skip": ["residul"]}, "did you mean 'residual'"),
        ({"tolerence": 0.1}, "did you mean 'tolerance'"),
        ({"problem": nn.Conv2d(1, 8, 3)}, "problem is a Conv2d"),
    ],
)
def test_what_cannot_be_says_what_can(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        gymnasium.make(ITERATIVE, **arguments)


def test_a_problem_says_itself_what_it_is(problem: PruningProblem) -> None:
    with pytest.raises(UserError, match="model and problem are both given"):
        make_env("layerwise", problem, model="lenet5")
    with pytest.raises(UserError, match="did you mean 'layerwise'"):
        make_env("layer-wise", problem)


def test_mixed_environments_and_trainings_take_them(problem: PruningProblem) -> None:
    env = gymnasium.make(
        MIXED, problems=[problem, {"criterion": "l2", **SMALL}], budgets=[0.5], disable_env_checker=True
    )
    inner = env.unwrapped
    assert isinstance(inner, MixedPruningEnv) and inner.envs[0].problem is problem
    for number in (0, 1):
        env.reset(options={"problem": number})
        assert inner.active is inner.envs[number]
    env.close()
    quick = {"n_steps": 8, "batch_size": 8, "n_epochs": 1}
    agents = [
        train(problems=[problem], episodes=6, hyperparameters=quick, env_kwargs={"budgets": [0.5]}, workers=workers)
        for workers in (1, 2)
    ]
    assert [len(agent.card["env"]["kwargs"]["problems"]) for agent in agents] == [1, 1]
    with pytest.raises(UserError, match="only forked workers"):
        train(problems=[problem], workers=2, start_method="spawn")
    with pytest.raises(UserError, match="2 problems are given"):
        train(problems=[problem, problem], env=LAYERWISE)
    with pytest.raises(UserError, match="did you mean 'episodes'"):
        train(problems=[problem], episode=3)


def streams() -> list[Any]:
    return [torch.get_rng_state().tolist(), np.random.get_state()[1].tolist(), random.getstate()]  # type: ignore[index]


def test_making_an_environment_and_loading_an_agent_leave_the_global_streams_alone(problem: PruningProblem) -> None:
    torch.manual_seed(5)
    np.random.seed(5)
    random.seed(5)
    before = streams()
    shared_problem.cache_clear()
    FilterPruningEnv(**SMALL).close()
    make_env("layerwise", problem)
    assert streams() == before
    for name in assets.names():
        load_agent(name)
    assert streams() == before
