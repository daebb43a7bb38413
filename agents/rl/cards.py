"""The card of an agent that somebody's own script trained, made of its zip and of its environment's arguments."""

from __future__ import annotations

import base64
import contextlib
import json
import pickletools
import re
import zipfile
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

from rlprune.agents.rl.settings import ALGORITHMS
from rlprune.envs.observations import FEATURES
from rlprune.envs.registration import GAMES, LAYERWISE
from rlprune.envs.rules import Rules
from rlprune.errors import UserError, unknown_name
from rlprune.files import write_json
from rlprune.spec import ProblemSpec

FORMAT = "rlprune-agent-1"
_KEPT = {"sac": ("ent_coef", "use_sde"), "tqc": ("ent_coef", "use_sde"), "crossq": ("ent_coef",),
         "ppo": ("use_sde",), "a2c": ("use_sde",)}  # fmt: skip
"""Settings beside the policy's that decide which tensors an agent has, by algorithm."""
_ON_POLICY = ("ppo", "a2c", "trpo")  # they keep what was observed before VecNormalize only where there is one
_OWN = ("optimizer_class", "optimizer_kwargs")  # of the policy's, what the algorithm sets by itself


def write_card(model: Any, env: Any, path: str | Path = "agent.zip") -> Path:
    """Save an agent of one's own script so that `rlprune episode --agent PATH` runs it; returns the zip's path.

    Args:
        model: A Stable-Baselines3 algorithm, which is saved to `path`; or the zip that it was saved to already.
        env: What it was trained in: one of this package's environments, wrapped or not, or a vector of them.
        path: Where the zip goes, with the card beside it.

    Raises:
        UserError: If the agent cannot be built again from plain values, or observations were changed on the way.

    Example:
        >>> model = PPO("MlpPolicy", env).learn(1000)  # doctest: +SKIP
        >>> write_card(model, env, "mine.zip")  # doctest: +SKIP
    """
    path = Path(path if hasattr(model, "save") else model).with_suffix(".zip")
    told = _told(env)
    if hasattr(model, "save"):
        path.parent.mkdir(parents=True, exist_ok=True)
        model.save(path)
    write_json(path.with_suffix(".json"), {**_about(path, _data(path)), **told})
    return path


def write_card_of(path: Path, arguments: str) -> None:
    """Write the card of a zip whose environment was made with these arguments, a JSON object.

    Raises:
        UserError: If they are none of an environment, or there is a card already.
    """
    card = path.with_suffix(".json")
    if card.exists():
        raise UserError(f"{card} says what {path.name} was trained in: leave --env-kwargs out, or remove that file")
    try:
        given = json.loads(arguments)
        if not isinstance(given, dict):
            raise ValueError
    except ValueError:
        raise UserError(f"--env-kwargs is {arguments!r}; it must be JSON, as in '{{\"budget\": 0.5}}'") from None
    known = {item.name for item in fields(Rules)}
    for name in given:
        if name not in known | {item.name for item in fields(ProblemSpec)} | {"recovery"}:
            raise unknown_name("argument of the environment", name, known)
    rules = Rules(**{**GAMES["layerwise"], **{name: given[name] for name in given if name in known}})
    data = _data(path)
    about = _about(path, data)
    told = about["algorithm"] in _ON_POLICY and data.get("_last_original_obs") is not None
    if told or _outside(data.get("_last_obs")):
        raise UserError(
            f"{path} was trained in VecNormalize, and its zip does not say what that made of observations; "
            "train it without, or, if rewards alone were normalised, save it by rlprune.agents.write_card(model, env)"
        )
    write_json(card, {**about, **_trained(LAYERWISE, rules, given)})


def _outside(observation: Any) -> bool:
    """Whether the last observation of a training leaves [-1, 1], as none of an environment does and VecNormalize's do.

    Its bytes are looked for in the pickle; nothing is unpickled.
    """
    text = observation.get(":serialized:", "") if isinstance(observation, dict) else ""
    with contextlib.suppress(Exception):  # no base64, or no pickle: it tells nothing
        parts = [
            part for _, part, _ in pickletools.genops(base64.b64decode(text)) if isinstance(part, bytes | bytearray)
        ]
        arrays = [np.frombuffer(part, np.float32) for part in parts if part and not len(part) % (4 * len(FEATURES))]
        return any(bool((np.abs(array) > 1).any()) for array in arrays)
    return False


def _data(path: Path) -> dict[str, Any]:
    """What a zip of Stable-Baselines3 says in plain text; nothing is unpickled."""
    try:
        with zipfile.ZipFile(path) as archive:
            return dict(json.loads(archive.read("data")))
    except FileNotFoundError:
        raise UserError(f"no such file: {path}") from None
    except (OSError, KeyError, ValueError, TypeError, zipfile.BadZipFile):
        raise UserError(f"{path} is not what Stable-Baselines3 saves; save the agent by model.save()") from None


def _about(path: Path, data: Mapping[str, Any]) -> dict[str, Any]:
    """How to build the agent of a zip that says `data` of itself."""
    observed = (data.get("observation_space") or {}).get("_shape")
    if observed != [len(FEATURES)]:
        raise UserError(f"{path} observes {observed}, and this version's environments show [{len(FEATURES)}]")
    for space in ("observation_space", "action_space"):
        bounds = {bound for side in ("low", "high") for bound in _numbers(data.get(space), side)}
        if not bounds <= {"-1.", "1."}:
            raise UserError(
                f"{path} has the {space.replace('_', ' ')} {' to '.join(sorted(bounds))}, and the environments here "
                "have -1 to 1: train it without the wrapper that changes that"
            )
    acts = (data.get("action_space") or {}).get("_shape")
    if acts not in ([1], [], None):
        raise UserError(f"{path} acts by {acts} numbers, and the environments here take [1], a rate for a group")
    policy = dict(data.get("policy_kwargs") or {})
    kwargs = {
        name: _plain(path, name, value)
        for name, value in policy.items()
        if name not in _OWN and not (name.startswith(":") and name.endswith(":"))
    }
    action, algorithm = data.get("action_space") or {}, _algorithm(path, data)
    kept = {name: data[name] for name in _KEPT.get(algorithm, ()) if name in data and not _pickled(data[name])}
    return {
        "format": FORMAT,
        "features": list(FEATURES),
        "algorithm": algorithm,
        "hyperparameters": {"policy": "MlpPolicy", "policy_kwargs": kwargs, **kept},
        "levels": int(action["n"]) if "Discrete" in str(action.get(":type:")) else None,
    }


def _numbers(space: Any, side: str) -> list[str]:
    """The bounds of a space as they are printed; none of one that has none."""
    return str(space.get(side, "")).strip("[]").split() if isinstance(space, dict) else []


def _algorithm(path: Path, data: Mapping[str, Any]) -> str:
    """The algorithm, by where its policy is defined and by settings that it alone has."""
    home = str((data.get("policy_class") or {}).get("__module__", "")).split(".")
    name = home[1] if len(home) > 2 else ""
    if name == "common":
        name = "trpo" if "cg_max_steps" in data else "ppo" if "clip_range" in data else "a2c"
    if name == "td3" and data.get("policy_delay") == 1:
        name = "ddpg"
    if name not in ALGORITHMS:
        raise UserError(f"{path} is of an algorithm unknown here; there are {', '.join(ALGORITHMS)}")
    return name


def _plain(path: Path, name: str, value: Any) -> Any:
    """A setting of the policy; of torch's activations the name."""
    activation = re.fullmatch(r"<class 'torch\.nn\.modules\.activation\.(\w+)'>", str(value))
    if activation:
        return activation[1]
    if _pickled(value) or (isinstance(value, str) and value.startswith("<")):
        raise UserError(f"{path} has a policy with its own {name}, which a card cannot say; train it without")
    return value


def _pickled(value: Any) -> bool:
    return isinstance(value, dict) and ":serialized:" in value


def _told(env: Any) -> dict[str, Any]:
    """What an environment, or a vector of them, says of itself."""
    from stable_baselines3.common.vec_env import VecEnv, unwrap_vec_normalize

    from rlprune.envs import AroundAdvice, DiscreteRates

    foreign = False
    if isinstance(env, VecEnv):
        normalised = unwrap_vec_normalize(env)
        if normalised is not None and normalised.norm_obs:
            raise UserError("the agent saw observations of VecNormalize, which no card says; they are bounded without")
        foreign = env.env_is_wrapped(gymnasium.ObservationWrapper)[0]
        specs, rules, tolerances = (_first(env, name) for name in ("spec", "rules", "tolerances"))
        around = env.env_is_wrapped(AroundAdvice)[0]
    else:
        inner, specs, around = env, env.spec, False
        while inner is not inner.unwrapped:
            around = around or isinstance(inner, AroundAdvice)
            changes = isinstance(inner, (gymnasium.ObservationWrapper, gymnasium.ActionWrapper))
            foreign = foreign or (changes and not isinstance(inner, (AroundAdvice, DiscreteRates)))
            inner = inner.env
        rules, tolerances = getattr(inner, "rules", None), getattr(inner, "tolerances", None)
    if not isinstance(rules, Rules):
        raise UserError("env is no environment of rlprune.envs, so nothing tells by which rules the agent prunes")
    if foreign:
        raise UserError("a wrapper changes what the agent sees or does, which no card says; train it without that")
    kwargs = dict(getattr(specs, "kwargs", None) or rules.to_json())
    env_id = getattr(specs, "id", None) or LAYERWISE
    return {**_trained(env_id, rules, kwargs, tolerances), "around": "advice" if around else "uniform"}


def _first(env: Any, name: str) -> Any:
    try:
        return env.get_attr(name)[0]
    except AttributeError:
        return None


def _trained(env_id: str, rules: Rules, kwargs: Mapping[str, Any], tolerances: Any = None) -> dict[str, Any]:
    plain = {name: value for name, value in kwargs.items() if isinstance(value, (str, int, float, list, tuple, dict))}
    played = {"criterion": rules.criterion, "max_rate": rules.max_rate, "skip": list(rules.skip)}
    seen = {"errors": rules.sees_errors, "advice": rules.advice}
    training = {"tolerances": sorted(set(tolerances or [rules.tolerance])), **seen}
    kept = json.loads(json.dumps({**plain, **played}, default=str))
    return {"around": "uniform", "env": {"id": env_id, "kwargs": kept}, "training": training}
