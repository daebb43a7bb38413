"""Every id and every wrapper keeps to Gymnasium's and Stable-Baselines3's interfaces, without a warning."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env as gymnasium_check
from stable_baselines3.common.env_checker import check_env as sb3_check
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv

from rlprune.envs import AroundAdvice, DiscreteRates, RecordEpisode, WholeNetworkAction
from rlprune.envs.observations import FEATURES
from rlprune.envs.registration import ITERATIVE, LAYERWISE, TOY, register

SMALL = {"control_size": 200, "calibration_size": 128}

Wrap = Callable[[gymnasium.Env[Any, Any]], gymnasium.Env[Any, Any]]
WRAPPERS: dict[str, Wrap] = {
    "plain": lambda env: env,
    "vector": WholeNetworkAction,
    "global": lambda env: WholeNetworkAction(env, mode="global"),
    "discrete": DiscreteRates,
    "around advice": AroundAdvice,
}


@pytest.mark.parametrize("env_id", [ITERATIVE, LAYERWISE])
@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_both_checkers_pass_without_a_warning(env_id: str, wrapper: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made = gymnasium.make(env_id, disable_env_checker=True, render_mode="ansi", **SMALL)
        env = WRAPPERS[wrapper](made.unwrapped)
        sb3_check(env, warn=True, skip_render_check=False)
        if wrapper == "plain":
            gymnasium_check(env)
        else:
            with warnings.catch_warnings():  # its one complaint is that a wrapper is no bare environment
                warnings.filterwarnings("ignore", message=".*is different from the unwrapped version.*")
                gymnasium_check(env, skip_render_check=True)


def test_the_toy_passes_both_checkers() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        toy = gymnasium.make(TOY, disable_env_checker=True).unwrapped
        sb3_check(toy, warn=True)
        gymnasium_check(toy, skip_render_check=True)


def test_recording_passes_the_checkers(tmp_path: Any) -> None:
    made = gymnasium.make(LAYERWISE, disable_env_checker=True, **SMALL)
    sb3_check(RecordEpisode(made.unwrapped, str(tmp_path)), warn=True, skip_render_check=True)


def test_registering_twice_does_nothing() -> None:
    before = dict(gymnasium.registry)
    register()
    assert dict(gymnasium.registry) == before


@pytest.mark.parametrize("env_id", [ITERATIVE, LAYERWISE])
def test_a_spec_survives_json_with_its_wrappers(env_id: str) -> None:
    env = RecordEpisode(DiscreteRates(gymnasium.make(env_id, skip=["residual"], keep=[], **SMALL), levels=5), "nowhere")
    assert env.spec is not None
    again = gymnasium.make(gymnasium.envs.registration.EnvSpec.from_json(env.spec.to_json()))
    assert isinstance(again, RecordEpisode)
    assert again.action_space == gymnasium.spaces.Discrete(5)
    first, _ = env.reset(seed=0)
    second, _ = again.reset(seed=0)
    np.testing.assert_array_equal(first, second)


def test_spaces_do_not_depend_on_the_network() -> None:
    from rlprune.envs import FilterPruningEnv

    one = FilterPruningEnv(model="lenet5", **SMALL)
    assert one.observation_space == gymnasium.spaces.Box(-1, 1, (len(FEATURES),), np.float32)
    assert one.action_space == gymnasium.spaces.Box(-1, 1, (1,), np.float32)


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_worker_processes_agree_with_this_one(method: str) -> None:
    actions = np.linspace(-0.6, 0.7, 8, dtype=np.float32)

    def play(vector: Any) -> list[Any]:
        seen = [vector.reset()]
        for action in actions:
            seen += list(vector.step(np.array([[action], [-action]]))[:3])
        vector.close()
        return seen

    name = f"rlprune:{LAYERWISE}"
    here = play(make_vec_env(name, n_envs=2, seed=0, env_kwargs=SMALL, vec_env_cls=DummyVecEnv))
    there = play(
        make_vec_env(
            name,
            n_envs=2,
            seed=0,
            env_kwargs=SMALL,
            vec_env_cls=SubprocVecEnv,
            vec_env_kwargs={"start_method": method},
        )
    )
    for one, other in zip(here, there, strict=True):
        if isinstance(one, np.ndarray):
            np.testing.assert_array_equal(one, other.astype(one.dtype))  # one of them keeps rewards in float32
        else:
            assert [info["reward_terms"] for info in one] == [info["reward_terms"] for info in other]
            assert [info.get("plan") for info in one] == [info.get("plan") for info in other]
