"""Stable-Baselines3 agents: made from presets, kept as zips with a card, loaded without unpickling anything."""

from __future__ import annotations

import importlib
import io
import warnings
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.noise import ActionNoise, NormalActionNoise, OrnsteinUhlenbeckActionNoise
from stable_baselines3.common.save_util import load_from_zip_file, recursive_setattr
from stable_baselines3.common.type_aliases import GymEnv
from stable_baselines3.common.utils import LinearSchedule
from torch import nn

from rlprune.agents.controllers.base import Array, State
from rlprune.agents.rl.assets import agent_file
from rlprune.agents.rl.cards import FORMAT
from rlprune.agents.rl.noise import DecayingNoise
from rlprune.agents.rl.settings import ALGORITHMS, check_algorithm
from rlprune.envs.advice import around_advice
from rlprune.envs.observations import FEATURES
from rlprune.errors import UserError, unknown_name
from rlprune.files import read_json, write_json, write_whole
from rlprune.seeding import streams_untouched

# What rl-zoo reads from a preset and an algorithm's constructor does not take.
_NOT_ARGUMENTS = ("n_timesteps", "n_envs", "normalize", "env_wrapper", "noise_type", "noise_std", "noise_decay")


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
    kwargs = arguments.get("policy_kwargs") or {}
    if isinstance(kwargs.get("activation_fn"), str):
        kwargs["activation_fn"] = _activation(kwargs["activation_fn"])
    environments = getattr(env, "num_envs", 1)
    if "n_steps" in arguments:
        arguments["n_steps"] = max(1, int(arguments["n_steps"]) // environments)
    for key, value in arguments.items():
        if isinstance(value, str) and value.startswith("lin_"):
            arguments[key] = LinearSchedule(float(value[4:]), 0.0, 1.0)
    noise = make_noise(hyperparameters)
    if noise is not None:
        arguments["action_noise"] = noise
    check_algorithm(name)
    module, attribute = ALGORITHMS[name]
    try:
        made: BaseAlgorithm = getattr(importlib.import_module(module), attribute)(
            policy, env, seed=seed, device=device, **arguments
        )
        return made
    except (TypeError, ValueError, KeyError, AttributeError, AssertionError) as error:
        raise UserError(f"algorithm {name!r} cannot be made with these hyperparameters: {error}") from None


def _activation(name: str) -> type[nn.Module]:
    """`ReLU`, or `nn.ReLU` as rl-zoo writes it."""
    found = getattr(nn, name.removeprefix("nn."), None)
    if isinstance(found, type) and issubclass(found, nn.Module):
        return found
    raise UserError(f"activation_fn is {name!r}; it must be a module of torch.nn, such as ReLU")


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
            action = action * self.followed(observation)[..., None]
        if self.card.get("around") == "advice":
            action = around_advice(action, observation)
        return action, state

    def followed(self, observation: Any) -> Array:
        """How far the agent is followed there, as `trust` says; fully where its card does not say what it has seen."""
        seen = np.asarray(observation)
        return trust(seen, self.card["support"]) if "support" in self.card else np.ones(seen.shape[:-1])


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
    card = read_card(path)
    levels = card.get("levels")
    action: spaces.Space[Any] = spaces.Discrete(levels) if levels else spaces.Box(-1.0, 1.0, (1,), np.float32)
    hyperparameters = dict(card["hyperparameters"])
    if "buffer_size" in hyperparameters:
        hyperparameters["buffer_size"] = 1
    with warnings.catch_warnings(), streams_untouched():
        warnings.filterwarnings("ignore", message="You have specified a mini-batch size")
        model = make_agent(card["algorithm"], _SpacesOnly(action), hyperparameters, seed=0, device=device)
        load_weights(model, path)
    return TrainedAgent(model, card)


def read_card(path: Path) -> dict[str, Any]:
    """The card beside an agent's zip; raises UserError if it is none, or one of other observations."""
    file = path.with_suffix(".json")
    if not file.exists():
        raise UserError(
            f"{path} has no card {file.name} beside it; write it by rlprune.agents.write_card(model, env), or say what "
            "its environment was made with, as in --env-kwargs '{\"budget\": 0.5}'"
        )
    card = read_json(file)
    if not isinstance(card, dict) or card.get("format") != FORMAT:
        raise UserError(f"{file} is not the card of an agent (format {FORMAT})")
    if card.get("features") != list(FEATURES):
        raise UserError(f"{path} was trained on other observations than this version's; train it again")
    levels, support = card.get("levels"), card.get("support")
    bounds = [] if support is None else list(dict(support).values()) if isinstance(support, dict) else [None]
    for place, right in (
        ("algorithm", isinstance(card.get("algorithm"), str)),
        ("hyperparameters", isinstance(card.get("hyperparameters"), dict)),
        ("levels", levels is None or (type(levels) is int and levels > 1)),
        ("support", all(_is_bound(bound) for bound in bounds)),
        ("training", isinstance(card.get("training", {}), dict)),
        ("env", isinstance(card.get("env", {}), dict)),
    ):
        if not right:
            raise UserError(f"{file}: {place} is {str(card.get(place))[:40]}, which no card of an agent holds")
    return card


def _is_bound(values: Any) -> bool:
    """Whether it is a number for every feature."""
    numbers = isinstance(values, list) and all(isinstance(value, (int, float)) for value in values)
    return numbers and len(values) == len(FEATURES)


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
        for name, tensor in (variables or {}).items():
            if tensor is not None:
                recursive_setattr(model, f"{name}.data", tensor.data)
    except Exception as error:  # whatever a damaged zip makes torch and zipfile raise
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{path} does not hold the agent that is expected ({reason})") from None
    for name, weight in model.policy.named_parameters():
        if not bool(weight.isfinite().all()):
            raise UserError(f"{path} holds an agent whose {name} is NaN or infinite; train it again")
