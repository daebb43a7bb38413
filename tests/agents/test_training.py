"""Training: reproducible, resumable, kept in files that load safely, and it really learns."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from importlib import resources
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
import yaml
from stable_baselines3.common.vec_env import DummyVecEnv

from rlprune.agents import run_episode
from rlprune.agents.rl import training
from rlprune.agents.rl.callbacks import checkpoints
from rlprune.agents.rl.noise import DecayingNoise
from rlprune.agents.rl.sb3 import TrainedAgent, load_agent, make_noise
from rlprune.agents.rl.settings import ALGORITHMS, DISCRETE, AgentSettings, preset
from rlprune.agents.rl.training import train
from rlprune.envs import AroundAdvice, FilterPruningEnv
from rlprune.envs.advice import around_advice
from rlprune.envs.registration import ITERATIVE, LAYERWISE, MIXED, TOY
from rlprune.envs.toy import ToyPruningEnv
from rlprune.errors import UserError
from rlprune.files import read_json, write_json

SMALL = {"control_size": 200, "calibration_size": 128}
QUICK = {"ppo": {"n_steps": 8, "n_epochs": 2}, "trpo": {"n_steps": 8}, "a2c": {"n_steps": 8}}
CONTRIB = sorted(name for name, (module, _) in ALGORITHMS.items() if module == "sb3_contrib")
BUNDLED = sorted(set(ALGORITHMS) - set(CONTRIB))


def settings(algorithm: str = "ppo", **changes: Any) -> AgentSettings:
    quick = QUICK.get(algorithm, {"learning_starts": 8, "batch_size": 16})
    return AgentSettings(**{"algorithm": algorithm, "env": TOY, "episodes": 16, "hyperparameters": quick, **changes})


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return dict(load_agent(folder / "agent.zip").model.policy.state_dict())


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("algorithm", [*BUNDLED, *CONTRIB])
def test_every_preset_trains_saves_and_acts_elsewhere(algorithm: str, tmp_path: Path) -> None:
    if algorithm in CONTRIB:
        pytest.importorskip("sb3_contrib")
    agent = train(settings(algorithm, episodes=8), tmp_path / "one")
    card = json.loads((tmp_path / "one" / "agent.json").read_text())
    assert card["algorithm"] == algorithm and card["training"]["episodes"] == 8
    lines = [json.loads(line) for line in (tmp_path / "one" / "episodes.jsonl").read_text().splitlines()]
    assert len(lines) == 8 and all(line["plan"] for line in lines)
    assert not checkpoints(tmp_path / "one")
    assert len(list((tmp_path / "one").glob("events*"))) == 1
    loaded = load_agent(tmp_path / "one" / "agent.zip")
    for env in (ToyPruningEnv(seed=5), FilterPruningEnv(one_shot=True, budget=0.5, max_rate=0.9, **SMALL)):
        assert run_episode(env, loaded).info["plan"] == run_episode(env, agent).info["plan"]


@pytest.mark.parametrize("algorithm", ["ppo", "sac", "dqn", "amc"])
def test_equal_seeds_train_equally_and_a_killed_training_ends_the_same(
    algorithm: str, tmp_path: Path, Killed: type[BaseException]
) -> None:
    setup = settings(algorithm, segment=40)
    whole, again, killed = tmp_path / "whole", tmp_path / "again", tmp_path / "killed"
    train(setup, whole)
    train(setup, again)
    assert same(weights(whole), weights(again))

    def die(count: int, line: dict[str, Any]) -> None:
        if count == 11:
            raise Killed

    with pytest.raises(Killed):
        train(setup, killed, on_episode=die)
    assert checkpoints(killed)
    with pytest.raises(UserError, match="--resume"):
        train(setup, killed)
    with pytest.raises(UserError, match="other settings"):
        train(settings(algorithm, seed=1), killed, resume=True)
    train(setup, killed, resume=True)
    assert same(weights(whole), weights(killed))
    assert (whole / "episodes.jsonl").read_text() == (killed / "episodes.jsonl").read_text()
    cards = [json.loads((folder / "agent.json").read_text()) for folder in (whole, killed)]
    for card in cards:
        assert card.pop("time")["processor_s"] > 0
        del card["checksum"]  # over the time, too
    assert cards[0] == cards[1]
    assert same(weights(killed), dict(train(setup, killed, resume=True).model.policy.state_dict()))


@pytest.mark.parametrize("env", [LAYERWISE, ITERATIVE, MIXED])
def test_real_environments_train_with_workers_that_share_their_scores(env: str, tmp_path: Path) -> None:
    kwargs: dict[str, Any] = {"common": SMALL, "budgets": [0.5, 0.6]} if env == MIXED else SMALL
    workers = 2 if env == MIXED else 1
    setup = settings(env=env, env_kwargs=kwargs, episodes=4, workers=workers)
    agent = train(setup, tmp_path / "one")
    assert (tmp_path / "one" / "scores.sqlite").exists()
    assert agent.card["metrics"]["deterministic"]


def test_files_that_are_no_agent_are_refused(tmp_path: Path) -> None:
    train(settings(episodes=2), tmp_path / "one")
    path = tmp_path / "one" / "agent.zip"
    with pytest.raises(UserError, match="no such file"):
        load_agent(tmp_path / "nothing.zip")
    card = read_json(path.with_suffix(".json"))
    write_json(path.with_suffix(".json"), {**card, "features": ["width", "hue"]})
    with pytest.raises(UserError, match="other observations"):
        load_agent(path)
    write_json(path.with_suffix(".json"), {**card, "algorithm": "sac"})
    with pytest.raises(UserError, match="cannot be made with these"):
        load_agent(path)
    write_json(path.with_suffix(".json"), card)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(UserError, match="does not hold"):
        load_agent(path)
    shutil.rmtree(tmp_path / "one")


def test_presets_are_in_rl_zoos_format_and_mistakes_are_named(tmp_path: Path) -> None:
    for name in sorted(set(ALGORITHMS) - {"amc"}):
        found = yaml.safe_load((resources.files("rlprune.agents.rl.presets") / f"{name}.yml").read_text())
        for env in (LAYERWISE, ITERATIVE):
            assert {"n_timesteps", "policy"} <= set(found[env])
            assert ("env_wrapper" in found[env]) == (name in DISCRETE)
            if name in BUNDLED:
                assert preset(name, env) == found[env]
    with pytest.raises(UserError, match="did you mean 'ppo'"):
        preset("ppoo", LAYERWISE)
    with pytest.raises(UserError, match="cannot read preset"):
        preset("ppo", LAYERWISE, str(tmp_path / "none.yml"))
    (tmp_path / "one.yml").write_text(yaml.safe_dump({LAYERWISE: {"policy": "MlpPolicy", "n_stepz": 3}}))
    with pytest.raises(UserError, match="did you mean"):
        preset("ppo", "rlprune/LayerwisePruning-v1", str(tmp_path / "one.yml"))
    with pytest.raises(UserError, match="n_stepz"):
        train(AgentSettings(env=LAYERWISE, preset=str(tmp_path / "one.yml"), env_kwargs=SMALL), tmp_path / "run")
    with pytest.raises(UserError, match="episodes is 0"):
        AgentSettings(episodes=0)
    for wrong in (None, "8", 0.5, -1, True):
        with pytest.raises(UserError, match=f"batch_size is {wrong!r}"):
            AgentSettings(hyperparameters={"batch_size": wrong}).all_hyperparameters(10)


def test_an_algorithm_that_is_not_installed_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sb3_contrib", None)
    for name in CONTRIB:
        with pytest.raises(UserError, match="pip install sb3-contrib"):
            AgentSettings(name)


@pytest.mark.parametrize(
    "changes",
    [
        {"hyperparameters": {"n_stepz": 3}},
        {"preset": "nowhere.yml"},
        {"env": LAYERWISE, "env_kwargs": {"model": "lenet6"}},
        {"env": LAYERWISE, "env_kwargs": {**SMALL, "budget": 0.001}, "workers": 2},
    ],
)
def test_a_mistake_leaves_no_folder_behind(changes: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(UserError):
        train(settings(**changes), tmp_path / "one")
    assert not (tmp_path / "one").exists()
    train(settings(episodes=2), tmp_path / "one")


@pytest.mark.parametrize("algorithm", ["ppo", "sac"])
def test_however_the_workers_start_the_training_is_equal(algorithm: str, tmp_path: Path) -> None:
    quick = {"ppo": {"n_steps": 32, "n_epochs": 1}, "sac": {"learning_starts": 16, "batch_size": 16}}[algorithm]
    found = []
    for method in ("fork", "forkserver", "spawn", None) if algorithm == "ppo" else ("spawn", None):
        setup = settings(algorithm, hyperparameters=quick, episodes=None, timesteps=64, workers=2, start_method=method)
        with pytest.MonkeyPatch.context() as patch:
            if method is None:  # all in this process
                patch.setattr(training, "SubprocVecEnv", lambda makers, start_method: DummyVecEnv(makers))
            train(setup, tmp_path / str(method))
        found.append(weights(tmp_path / str(method)))
    assert all(same(found[0], other) for other in found[1:])


@pytest.mark.parametrize("algorithm", ["ppo", "dqn"])
def test_an_agent_centred_on_the_advice_is_so_wherever_it_acts(algorithm: str, tmp_path: Path) -> None:
    kwargs = {**SMALL, "budget": 0.5, "max_rate": 0.9}
    agent = train(settings(algorithm, env=LAYERWISE, env_kwargs=kwargs, episodes=4), tmp_path)
    assert agent.card["around"] == "advice"
    env = gymnasium.make(LAYERWISE, **kwargs)
    plain = run_episode(env, agent)
    bare = TrainedAgent(agent.model, {})
    assert run_episode(AroundAdvice(env), bare).info["plan"] == plain.info["plan"]
    observation, _ = env.reset()
    assert agent.predict(observation)[0] == around_advice(bare.predict(observation)[0], observation)
    assert settings("amc").centre == "uniform"
    with pytest.raises(UserError, match="around"):
        settings(around="nothing")


def test_amcs_noise_falls_after_its_warm_up() -> None:
    noise = make_noise(preset("amc", LAYERWISE))
    assert isinstance(noise, DecayingNoise)
    noise.reset()
    spreads = []
    for _ in range(103):
        spreads.append(noise.now)
        noise.reset()
    assert spreads[:101] == [1.0] * 101
    assert spreads[101:] == pytest.approx([0.95, 0.95**2])


@pytest.mark.slow
@pytest.mark.parametrize(("algorithm", "episodes"), [("ppo", 600), ("sac", 2000), ("td3", 3000)])
def test_agents_come_within_two_percent_of_the_optimum(algorithm: str, episodes: int, tmp_path: Path) -> None:
    env = ToyPruningEnv(seed=1)
    setup = AgentSettings(algorithm, TOY, {"seed": 1, "reward": "gain"}, episodes=episodes)
    agent = train(setup, tmp_path / "one")
    score = run_episode(env, agent).info["final_score"]
    assert env.uniform_score < 0.95 * env.optimum
    assert score > 0.98 * env.optimum


def test_gymnasium_knows_every_id() -> None:
    assert {LAYERWISE, ITERATIVE, MIXED, TOY} <= set(gymnasium.registry)
    assert np.isfinite(ToyPruningEnv().optimum)


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["ppo", "dqn"])
def test_rl_zoo_trains_with_our_presets(algorithm: str, tmp_path: Path) -> None:
    pytest.importorskip("rl_zoo3")
    bundled = resources.files("rlprune.agents.rl.presets") / f"{algorithm}.yml"
    command = [sys.executable, "-m", "rl_zoo3.train", "--algo", algorithm, "--env", LAYERWISE, "--gym-packages"]
    command += ["rlprune", "-conf", str(bundled), "-n", "40", "--eval-freq", "-1", "--log-folder", str(tmp_path)]
    command += ["--env-kwargs", "control_size:200", "calibration_size:128", "budget:0.5"]
    subprocess.run(command, check=True, capture_output=True)
    assert list(tmp_path.glob(f"{algorithm}/*/*.zip"))
