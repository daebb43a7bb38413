"""An agent of a plain Stable-Baselines3 script runs by `rlprune episode`, and says how far it was followed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import stable_baselines3
import torch
from gymnasium.wrappers import NormalizeObservation, RescaleAction
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize

import rlprune  # noqa: F401 - registers the environments
from rlprune.agents import load_agent, write_card
from rlprune.cli import main
from rlprune.envs import AroundAdvice, DiscreteRates
from rlprune.errors import UserError

TOY = "rlprune/ToyPruning-v0"


def agent_of(name: str, env: Any, **policy: Any) -> Any:
    return getattr(stable_baselines3, name)("MlpPolicy", env, policy_kwargs=policy, seed=0)


SMALL = ["--control-size", "200", "--calibration-size", "128"]


def layerwise(**kwargs: Any) -> gymnasium.Env[Any, Any]:
    return gymnasium.make("rlprune/LayerwisePruning-v0", control_size=200, calibration_size=128, **kwargs)


@pytest.mark.parametrize("name", ["PPO", "A2C", "SAC", "TD3", "DDPG", "DQN"])
def test_a_card_rebuilds_every_algorithm(name: str, tmp_path: Path) -> None:
    env = layerwise(criterion="l2")
    acted = DiscreteRates(env, 5) if name == "DQN" else env
    model = agent_of(name, acted, net_arch=[8], activation_fn=torch.nn.ELU)
    agent = load_agent(write_card(model, acted, tmp_path / "mine.zip"))
    seen = np.random.default_rng(0).uniform(-1, 1, env.observation_space.shape).astype(np.float32)
    expected = model.predict(seen, deterministic=True)[0]
    if name == "DQN":
        expected = [np.linspace(-1, 1, 5, dtype=np.float32)[int(expected)]]
    np.testing.assert_array_equal(agent.predict(seen)[0], expected)
    assert agent.card["env"]["kwargs"]["criterion"] == "l2" and agent.card["training"]["errors"] is True


def test_an_agent_is_found_as_stable_baselines_names_it_and_a_folder_says_what_is_in_it(tmp_path: Path) -> None:
    env = layerwise()
    write_card(agent_of("PPO", env, net_arch=[8]), env, tmp_path / "mine.zip")
    seen = np.zeros(env.observation_space.shape or (), np.float32)
    found = [load_agent(name).predict(seen)[0] for name in (tmp_path / "mine.zip", tmp_path / "mine")]
    np.testing.assert_array_equal(*found)
    with pytest.raises(UserError, match=r"is a folder; give .*mine\.zip"):
        load_agent(tmp_path)


def test_a_vector_of_wrapped_environments_says_what_a_single_one_says(tmp_path: Path) -> None:
    kwargs = {"control_size": 200, "calibration_size": 128, "max_rate": 0.7}
    env = make_vec_env("rlprune/LayerwisePruning-v0", 2, env_kwargs=kwargs, wrapper_class=AroundAdvice)
    write_card(agent_of("PPO", env), env, tmp_path / "mine.zip")
    card = json.loads((tmp_path / "mine.json").read_text())
    assert card["around"] == "advice" and card["env"]["kwargs"]["max_rate"] == 0.7
    with pytest.raises(UserError, match="VecNormalize"):
        write_card(agent_of("PPO", env), VecNormalize(env), tmp_path / "mine.zip")


def test_a_plain_zip_runs_once_its_environment_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    agent_of("PPO", layerwise(), net_arch=[8]).save("mine.zip")
    argv = ["episode", "--agent", "mine.zip", *SMALL, "--budget", "0.6", "--recovery", "none"]
    assert main(argv) == 2
    line = capsys.readouterr().err.strip()
    assert "write_card(model, env)" in line and "--env-kwargs" in line and "\n" not in line
    assert main([*argv, "--env-kwargs", '{"criterion": "l2"}', "--out", "run", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["settings"]["criterion"] == "l2", "the rules are those of its training"
    assert record["pruned"]["macs"] <= 0.6 * record["baseline"]["macs"]
    followed = record["rounds"][0]["followed"]
    assert set(followed.values()) == {1.0} and len(followed) == 3
    assert main([*argv, "--env-kwargs", "{}"]) == 2
    assert "mine.json" in capsys.readouterr().err


def test_fading_is_told_by_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An agent that has seen nothing like it fades on every group, and the screen says so."""
    monkeypatch.chdir(tmp_path)
    env = layerwise()
    write_card(agent_of("PPO", env), env, "mine.zip")
    card = json.loads(Path("mine.json").read_text())
    nowhere = [5.0] * len(card["features"])
    del card["checksum"]
    Path("mine.json").write_text(json.dumps({**card, "support": {"low": nowhere, "high": nowhere}}))
    assert main(["episode", "--agent", "mine.zip", *SMALL, "--recovery", "none", "--out", "run"]) == 0
    out = capsys.readouterr().out
    assert "The agent was followed 0 % on average; it faded on 3 of 3 groups" in " ".join(out.split())


@pytest.mark.parametrize(
    ("more", "least"),
    [
        (["--episodes", "3"], "at least 17 episodes (49 steps)"),
        (["--episodes", "3", "--algorithm", "sac"], "at least 17 episodes (49 steps)"),
        (["--timesteps", "30", "--algorithm", "sac"], "(49 steps)"),
        (["--episodes", "40", "--set", "n_steps=128"], "at least 43 episodes (129 steps)"),
    ],
)
def test_a_training_without_an_update_is_refused(
    more: list[str], least: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["train-agent", "--models", "lenet5", "--out", "a", *more]) == 2
    line = capsys.readouterr().err.strip()
    assert least in line and "\n" not in line
    assert not Path("a").exists()


def test_what_a_wrapper_did_to_an_agent_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An agent that saw or did something else would be played wrongly in silence."""
    monkeypatch.chdir(tmp_path)
    single = {"normalised": NormalizeObservation(layerwise()), "doubled": Doubled(layerwise())}
    for name, env in single.items():
        with pytest.raises(UserError, match="a wrapper changes what the agent sees or does"):
            write_card(agent_of("PPO", env), env, name)
    vector = make_vec_env("rlprune/LayerwisePruning-v0", 1, env_kwargs={"control_size": 200, "calibration_size": 128})
    for name, env, message in (
        ("space", NormalizeObservation(layerwise()), "the observation space -inf to inf"),
        ("rates", RescaleAction(layerwise(), np.float32(0), np.float32(1)), "the action space 0. to 1."),
        ("vector", VecNormalize(vector), "was trained in VecNormalize"),
        ("two", TwoNumbers(layerwise()), "acts by [2] numbers"),
    ):
        model = stable_baselines3.PPO("MlpPolicy", env, n_steps=8, batch_size=8, n_epochs=1)
        model.learn(8) if name == "vector" else None
        model.save(name)
        assert main(["episode", "--agent", f"{name}.zip", "--env-kwargs", "{}"]) == 2
        assert message in capsys.readouterr().err and not Path(f"{name}.json").exists()
    rewards = VecNormalize(vector, norm_obs=False)
    assert load_agent(write_card(agent_of("PPO", rewards), rewards, "rewards.zip")).card["around"] == "uniform"


@pytest.mark.parametrize("observations", [True, False])
def test_an_off_policy_zip_of_normalised_observations_is_told_from_others(
    observations: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    env = VecNormalize(make_vec_env(TOY), norm_obs=observations)
    agent = stable_baselines3.SAC("MlpPolicy", env, policy_kwargs={"net_arch": [8]}, buffer_size=50, seed=0)
    agent.learn(12)
    agent.save("mine.zip")
    status = main(["episode", "--agent", "mine.zip", *SMALL, "--env-kwargs", "{}", "--recovery", "none", "--quiet"])
    said = capsys.readouterr().err
    assert status == (2 if observations else 0) and ("was trained in VecNormalize" in said) == observations
    assert Path("mine.json").exists() != observations


class Doubled(gymnasium.ObservationWrapper[Any, Any, Any]):
    def observation(self, observation: Any) -> Any:
        return 2 * observation


class TwoNumbers(gymnasium.Wrapper[Any, Any, Any, Any]):
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float32)  # type: ignore[assignment]


def test_an_agent_of_another_optimizer_plays(tmp_path: Path) -> None:
    env = layerwise()
    model = agent_of("PPO", env, optimizer_class=torch.optim.SGD, optimizer_kwargs={"momentum": 0.9})
    seen = np.zeros(env.observation_space.shape, np.float32)
    played = load_agent(write_card(model, env, tmp_path / "mine.zip")).predict(seen)[0]
    np.testing.assert_array_equal(played, model.predict(seen, deterministic=True)[0])
