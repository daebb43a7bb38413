"""Stable-Baselines3 agents: made from presets, kept as zips with a card, loaded without unpickling anything."""

from __future__ import annotations

import importlib
import inspect
import io
import warnings
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property
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
from rlprune.devices import checked_device
from rlprune.envs.advice import around_advice
from rlprune.envs.observations import FEATURES
from rlprune.envs.rules import ADVICE
from rlprune.errors import UserError, first_line, reading, unknown_name
from rlprune.files import check_archive, read_json, write_archive, write_json
from rlprune.seeding import streams_untouched
from rlprune.typed import checked

CARD: dict[str, Any] = {
    "algorithm": str, "hyperparameters": dict[str, Any], "levels": int | None, "around": str | None,
    "support": dict[str, list[float]] | None, "training": dict[str, Any] | None, "env": dict[str, Any] | None,
}  # fmt: skip
MOST_LEVELS = 10_000

BOUNDS: tuple[tuple[str, Any, float, float], ...] = (
    ("n_steps batch_size n_epochs buffer_size policy_delay target_update_interval", int, 1, 10**9),
    ("learning_starts", int, 0, 10**9),
    ("gamma gae_lambda tau exploration_fraction exploration_initial_eps exploration_final_eps", float, 0, 1),
    ("max_grad_norm noise_std", float, 0, 10**9),
    ("target_kl", float | None, 0, 10**9),
    ("gradient_steps", int, -1, 10**9),
)
"""Names of hyperparameters, their type, and the least and the most they can be."""

# What rl-zoo reads from a preset and an algorithm's constructor does not take.
_NOT_ARGUMENTS = ("n_timesteps", "n_envs", "normalize", "env_wrapper", "noise_type", "noise_std", "noise_decay")


def make_agent(
    name: str, env: GymEnv, hyperparameters: Mapping[str, Any], *, seed: int, device: str = "cpu"
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
    check_algorithm(name)
    checked_device(device)
    check_hyperparameters(hyperparameters)
    arguments = {key: deepcopy(value) for key, value in hyperparameters.items() if key not in _NOT_ARGUMENTS}
    policy = arguments.pop("policy", "MlpPolicy")
    checked(dict[str, Any] | None, arguments.get("policy_kwargs"), "hyperparameter policy_kwargs")
    kwargs = arguments.get("policy_kwargs") or {}
    if isinstance(kwargs.get("activation_fn"), str):
        kwargs["activation_fn"] = _activation(kwargs["activation_fn"])
    environments = getattr(env, "num_envs", 1)
    if "n_steps" in arguments:
        arguments["n_steps"] = max(1, arguments["n_steps"] // environments)
    module, attribute = ALGORITHMS[name]
    algorithm: Any = getattr(importlib.import_module(module), attribute)
    try:
        _check_kinds(algorithm, arguments)
        for key, value in arguments.items():
            if isinstance(value, str) and value.startswith("lin_"):
                arguments[key] = LinearSchedule(float(value[4:]), 0.0, 1.0)
        noise = make_noise(hyperparameters)
        if noise is not None:
            arguments["action_noise"] = noise
        made: BaseAlgorithm = algorithm(policy, env, seed=seed, device=device, **arguments)
        return made
    except Exception as error:  # wrong values make Stable-Baselines3 raise errors of any kind
        reason = first_line(error)
        raise UserError(f"algorithm {name!r} cannot be made with these hyperparameters: {reason}") from None


def check_hyperparameters(hyperparameters: Mapping[str, Any]) -> None:
    """Raise UserError for a value that Stable-Baselines3 would take, and fail of in the middle of a training."""
    for names, kind, least, most in BOUNDS:
        for name in set(names.split()) & set(hyperparameters):
            value = checked(kind, hyperparameters[name], f"hyperparameter {name}")
            if value is not None and not least <= value <= most:
                raise UserError(f"hyperparameter {name} is {value}; it must lie in [{least}, {most}]")
    rate = hyperparameters.get("learning_rate", 1.0)
    if not isinstance(rate, str) and not checked(float, rate, "hyperparameter learning_rate") >= 0.0:
        raise UserError(f"hyperparameter learning_rate is {rate}; it must be a number >= 0, or as in lin_0.001")


def _activation(name: str) -> type[nn.Module]:
    """`ReLU`, or `nn.ReLU` as rl-zoo writes it."""
    found = getattr(nn, name.removeprefix("nn."), None)
    if isinstance(found, type) and issubclass(found, nn.Module):
        return found
    raise UserError(f"activation_fn is {name!r}; it must be a module of torch.nn, such as ReLU")


def _check_kinds(algorithm: Any, arguments: Mapping[str, Any]) -> None:
    """Raise UserError for an argument that is of another type than the constructor's own value for it."""
    for name, parameter in inspect.signature(algorithm).parameters.items():
        kind, value = type(parameter.default), arguments.get(name)
        if name in ("learning_rate", "clip_range") and isinstance(value, str):  # a schedule
            continue
        if name == "train_freq" and isinstance(value, list | tuple):  # with its unit
            kind, value = int, next(iter(value), None)
        if name in arguments and kind in (int, float, bool):
            checked(kind, value, name)
        if name in ("train_freq", "clip_range") and value is not None and value <= 0:
            raise UserError(f"{name} is {value}; it must be above 0")
        if name == "action_noise" and value is not None:
            raise UserError("action_noise is an object; give noise_type and noise_std instead")


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

    @cached_property
    def _columns(self) -> list[int] | None:
        """Where in this version's observation the features lie that the agent was trained on; None if those are all."""
        features = self.card.get("features", FEATURES)
        return None if tuple(features) == FEATURES else [FEATURES.index(name) for name in features]

    def _told(self, observation: Any) -> Any:
        """What the agent sees of an observation: the features that it was trained on."""
        return observation if self._columns is None else np.asarray(observation)[..., self._columns]

    def predict(
        self, observation: Any, state: State = None, episode_start: Array | None = None, deterministic: bool = True
    ) -> tuple[Array, State]:
        """The action in [-1, 1] for an observation, also of agents that choose among levels."""
        action, state = self.model.predict(self._told(observation), state, episode_start, deterministic)
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
        seen = np.asarray(self._told(observation))
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
    below, above = np.clip(low - observation, 0.0, STRANGE), np.clip(observation - high, 0.0, STRANGE)  # however far
    distance = (below + above).sum(axis=-1)
    return np.asarray(np.clip((STRANGE - distance) / (STRANGE - FAMILIAR), 0.0, 1.0), dtype=np.float32)


def save_agent(path: Path, model: BaseAlgorithm, card: Mapping[str, Any]) -> None:
    """Write Stable-Baselines3's own zip, and the card beside it as `<name>.json`; both appear whole."""
    buffer = io.BytesIO()
    model.save(buffer)
    write_archive(path, buffer)
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
    with warnings.catch_warnings(), streams_untouched(), reading(path, "an agent of this card"):
        warnings.filterwarnings("ignore", message="You have specified a mini-batch size")
        model = make_agent(
            card["algorithm"], _SpacesOnly(len(card["features"]), action), hyperparameters, seed=0, device=device
        )
        load_weights(model, path, training=False)
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
    features = checked(list[str], card.get("features"), f"{file}: features")
    if not features or len({*features}) < len(features) or not {*features} <= {*FEATURES}:
        raise UserError(f"{path} was trained on other observations than this version's; train it again")
    for name, kind in CARD.items():
        checked(kind, card.get(name), f"{file}: {name}")
    training, support = card.get("training") or {}, card.get("support") or {}
    checked(list[float], training.get("tolerances", []), f"{file}: training: tolerances")
    checked(bool | None, training.get("errors"), f"{file}: training: errors")
    if training.get("advice", ADVICE[0]) not in ADVICE:
        raise UserError(f"{file}: training: advice is {training['advice']!r}; it must be one of {', '.join(ADVICE)}")
    if not 2 <= (card.get("levels") or 2) <= MOST_LEVELS:
        raise UserError(f"{file}: levels is {card['levels']}; it must lie in [2, {MOST_LEVELS}]")
    if support and not (set(support) == {"low", "high"} and all(len(b) == len(features) for b in support.values())):
        raise UserError(f"{file}: support must be 'low' and 'high', each a number for every feature")
    return card


class _SpacesOnly(gymnasium.Env[Any, Any]):
    """What an agent has to know of its environment when it is only built."""

    def __init__(self, features: int, action: spaces.Space[Any]) -> None:
        self.observation_space = spaces.Box(-1.0, 1.0, (features,), np.float32)
        self.action_space = action


def load_weights(model: BaseAlgorithm, path: Path, *, training: bool = True) -> None:
    """Put the tensors of a zip into a model of the same make: the policy, and, to train on, all else.

    No pickles are read.
    """
    check_archive(path)
    try:
        parameters: Any
        _, parameters, variables = load_from_zip_file(path, load_data=False, device=model.device)
        if training:
            model.set_parameters(parameters, exact_match=True, device=model.device)
        else:  # whatever optimizer it had
            model.policy.load_state_dict(parameters["policy"])
        for name, tensor in (variables or {}).items() if training else ():
            if tensor is not None:
                recursive_setattr(model, f"{name}.data", tensor.data)
    except Exception as error:  # whatever a damaged zip makes torch and zipfile raise
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(
            f"{path} does not hold the agent of its card ({reason}); it is damaged, or the card is another agent's"
        ) from None
    for name, weight in model.policy.named_parameters():
        if not bool(weight.isfinite().all()):
            raise UserError(f"{path} holds an agent whose {name} is NaN or infinite; train it again")
