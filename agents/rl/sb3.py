"""Stable-Baselines3 agents: made from presets, kept as zips with a card, loaded without unpickling anything."""

from __future__ import annotations

import importlib
import io
import warnings
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import yaml
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.noise import ActionNoise, NormalActionNoise, OrnsteinUhlenbeckActionNoise
from stable_baselines3.common.save_util import load_from_zip_file, recursive_setattr
from stable_baselines3.common.type_aliases import GymEnv
from stable_baselines3.common.utils import LinearSchedule

from rlprune.agents.controllers.base import Array, State
from rlprune.agents.rl.assets import agent_file
from rlprune.agents.rl.noise import DecayingNoise
from rlprune.envs.advice import around_advice
from rlprune.envs.observations import FEATURES
from rlprune.errors import UserError, unknown_name
from rlprune.files import read_json, write_json, write_whole

ALGORITHMS = {
    "ppo": ("stable_baselines3", "PPO"),
    "a2c": ("stable_baselines3", "A2C"),
    "sac": ("stable_baselines3", "SAC"),
    "td3": ("stable_baselines3", "TD3"),
    "ddpg": ("stable_baselines3", "DDPG"),
    "dqn": ("stable_baselines3", "DQN"),
    "amc": ("stable_baselines3", "DDPG"),
    "tqc": ("sb3_contrib", "TQC"),
    "trpo": ("sb3_contrib", "TRPO"),
    "crossq": ("sb3_contrib", "CrossQ"),
    "qrdqn": ("sb3_contrib", "QRDQN"),
}
"""Module and class of every algorithm by name; `amc` is DDPG with AMC's settings (He et al. 2018)."""

DISCRETE = frozenset({"dqn", "qrdqn"})
FORMAT = "rlprune-agent-1"

# What rl-zoo reads from a preset and an algorithm's constructor does not take.
_NOT_ARGUMENTS = ("n_timesteps", "n_envs", "normalize", "env_wrapper", "noise_type", "noise_std", "noise_decay")


def algorithm(name: str) -> type[BaseAlgorithm]:
    """The class of an algorithm; raises UserError if the name is unknown or its package is not installed."""
    if name not in ALGORITHMS:
        raise unknown_name("algorithm", name, ALGORITHMS)
    module, attribute = ALGORITHMS[name]
    try:
        found: type[BaseAlgorithm] = getattr(importlib.import_module(module), attribute)
    except ImportError:
        raise UserError(f"algorithm {name!r} is in {module}, which is not installed: pip install sb3-contrib") from None
    return found


def preset(name: str, env_id: str, path: str | None = None) -> dict[str, Any]:
    """The hyperparameters of an algorithm for an environment, from a YAML file in rl-zoo's format.

    Args:
        name: The algorithm.
        env_id: The environment; where the file has no entry for it, `default` is taken.
        path: A file of one's own; None takes the one that comes with this package.

    Raises:
        UserError: If there is no such file or entry, or it is not YAML.
    """
    algorithm(name)
    if path is None:
        bundled = resources.files("rlprune.agents.rl.presets") / f"{name}.yml"
        if not bundled.is_file():
            raise UserError(f"no preset comes with algorithm {name!r}; give one with --preset FILE.yml")
        text = bundled.read_text()
    else:
        try:
            text = Path(path).read_text()
        except OSError as error:
            raise UserError(f"cannot read preset {path}: {error.strerror}") from None
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(f"preset {path or name} is not YAML: {str(error).splitlines()[0]}") from None
    if not isinstance(content, dict):
        raise UserError(f"preset {path or name} holds no entries by environment; see agents/presets/ppo.yml")
    if env_id not in content and "default" not in content:
        raise unknown_name("environment in the preset", env_id, content)
    entry: dict[str, Any] = content[env_id] if env_id in content else content["default"]
    return dict(entry)


def make_agent(
    name: str,
    env: GymEnv,
    hyperparameters: Mapping[str, Any],
    *,
    seed: int,
    device: str = "cpu",
) -> BaseAlgorithm:
    """An untrained agent.

    Args:
        name: The algorithm.
        env: What it acts in; its spaces and number of environments count.
        hyperparameters: As `preset` gives them. `n_steps` is for all environments together.
        seed: Of the agent.
        device: Where its own network is.

    Raises:
        UserError: For a hyperparameter that the algorithm does not take.
    """
    arguments = {key: deepcopy(value) for key, value in hyperparameters.items() if key not in _NOT_ARGUMENTS}
    policy = arguments.pop("policy", "MlpPolicy")
    environments = getattr(env, "num_envs", 1)
    if "n_steps" in arguments:
        arguments["n_steps"] = max(1, int(arguments["n_steps"]) // environments)
    for key, value in arguments.items():
        if isinstance(value, str) and value.startswith("lin_"):
            arguments[key] = LinearSchedule(float(value[4:]), 0.0, 1.0)
    noise = make_noise(hyperparameters)
    if noise is not None:
        arguments["action_noise"] = noise
    try:
        return algorithm(name)(policy, env, seed=seed, device=device, **arguments)
    except TypeError as error:
        raise UserError(f"algorithm {name!r} cannot be made with these hyperparameters: {error}") from None


def make_noise(hyperparameters: Mapping[str, Any]) -> ActionNoise | None:
    """The action noise that a preset asks for by `noise_type`, `noise_std` and, for `decaying`, `noise_decay`."""
    kind, spread = hyperparameters.get("noise_type"), np.array([float(hyperparameters.get("noise_std", 0.1))])
    if kind is None:
        return None
    if kind == "decaying":
        decay = hyperparameters["noise_decay"]
        return DecayingNoise(float(spread[0]), float(decay["factor"]), int(decay["after"]))
    if kind == "normal":
        return NormalActionNoise(np.zeros(1), spread)
    if kind == "ornstein-uhlenbeck":
        return OrnsteinUhlenbeckActionNoise(np.zeros(1), spread)
    raise unknown_name("noise_type", str(kind), ("decaying", "normal", "ornstein-uhlenbeck"))


@dataclass(frozen=True, eq=False)
class TrainedAgent:
    """A trained agent as a controller: it acts in any pruning environment, whatever it was trained in.

    Attributes:
        model: The Stable-Baselines3 algorithm.
        card: What it was trained on and how.
    """

    model: BaseAlgorithm
    card: Mapping[str, Any]

    def predict(
        self,
        observation: Any,
        state: State = None,
        episode_start: Array | None = None,
        deterministic: bool = True,
    ) -> tuple[Array, State]:
        """The action in [-1, 1] for an observation, also of agents that choose among levels."""
        action, state = self.model.predict(observation, state, episode_start, deterministic)
        if isinstance(self.model.action_space, spaces.Discrete):
            levels = np.linspace(-1.0, 1.0, int(self.model.action_space.n), dtype=np.float32)
            action = levels[np.asarray(action)][..., None]
        if "support" in self.card:
            action = action * trust(np.asarray(observation), self.card["support"])[..., None]
        if self.card.get("around") == "advice":
            action = around_advice(action, observation)
        return action, state


FAMILIAR, STRANGE = 0.15, 0.3
"""Distances from what an agent was trained on: up to the first its action counts fully, from the second not at all."""


def trust(observation: Array, support: Mapping[str, Sequence[float]]) -> Array:
    """How far an agent is followed, in [0, 1]: less where it sees what it was not trained on.

    A policy's answer to strange observations is arbitrary; there it fades to action 0, the advised (or uniform) rate.

    Args:
        observation: (features,) or (n, features).
        support: `low` and `high`, the bounds (features,) of what was seen in training. The distance is by how much the
            features leave them, added up.
    """
    low, high = np.asarray(support["low"]), np.asarray(support["high"])
    distance = (np.maximum(low - observation, 0.0) + np.maximum(observation - high, 0.0)).sum(axis=-1)
    return np.asarray(np.clip((STRANGE - distance) / (STRANGE - FAMILIAR), 0.0, 1.0), dtype=np.float32)


def save_agent(path: Path, model: BaseAlgorithm, card: Mapping[str, Any]) -> None:
    """Write Stable-Baselines3's own zip, and the card beside it as `<name>.json`; both appear whole."""
    buffer = io.BytesIO()
    model.save(buffer)
    write_whole(path, lambda file: file.write(buffer.getbuffer()))
    write_json(path.with_suffix(".json"), {"format": FORMAT, "features": list(FEATURES), **card})


def load_agent(path: str | Path, device: str = "cpu") -> TrainedAgent:
    """Load an agent from its zip and the card beside it.

    The card says how to build it and the zip gives tensors alone: nothing is unpickled.

    Args:
        path: The zip, or the name of an agent that comes with the package.
        device: Where its own network is.

    Raises:
        UserError: If one of the files is missing or damaged, or is of another version's observations.
    """
    path = agent_file(path)
    card = read_json(path.with_suffix(".json"))
    if not isinstance(card, dict) or card.get("format") != FORMAT:
        raise UserError(f"{path.with_suffix('.json')} is not the card of an agent (format {FORMAT})")
    if card["features"] != list(FEATURES):
        raise UserError(f"{path} was trained on other observations than this version's; train it again")
    levels = card.get("levels")
    action: spaces.Space[Any] = spaces.Discrete(levels) if levels else spaces.Box(-1.0, 1.0, (1,), np.float32)
    hyperparameters = dict(card["hyperparameters"])
    if "buffer_size" in hyperparameters:
        hyperparameters["buffer_size"] = 1
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="You have specified a mini-batch size")
        model = make_agent(card["algorithm"], _SpacesOnly(action), hyperparameters, seed=0, device=device)
    load_weights(model, path)
    return TrainedAgent(model, card)


class _SpacesOnly(gymnasium.Env[Any, Any]):
    """What an agent has to know of its environment when it is only built."""

    def __init__(self, action: spaces.Space[Any]) -> None:
        self.observation_space = spaces.Box(-1.0, 1.0, (len(FEATURES),), np.float32)
        self.action_space = action


def load_weights(model: BaseAlgorithm, path: Path) -> None:
    """Put the tensors of a zip into a model of the same make: policy, optimizers, temperature. No pickles are read."""
    try:
        _, parameters, variables = load_from_zip_file(path, load_data=False, device=model.device)
        model.set_parameters(parameters, exact_match=True, device=model.device)
    except (ValueError, RuntimeError, KeyError, OSError) as error:
        raise UserError(f"{path} does not hold the agent that is expected ({str(error).splitlines()[0]})") from None
    for name, tensor in (variables or {}).items():
        if tensor is not None:
            recursive_setattr(model, f"{name}.data", tensor.data)
