"""What a controller is: anything with Stable-Baselines3's `predict`, a trained agent or a rule."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Protocol, runtime_checkable

import gymnasium
import numpy as np
import numpy.typing as npt

from rlprune.errors import UserError, unknown_name
from rlprune.registry import Registry

Array = npt.NDArray[Any]
State = tuple[Array, ...] | None


class Controller(Protocol):
    """Sets the pruning rate of one channel group after the other.

    The one method is Stable-Baselines3's own, so a trained agent is a controller and a rule runs wherever an agent
    does. A rule that needs more than the observation has a `bind` method too (see `Rule`).
    """

    def predict(
        self,
        observation: Any,
        state: State = None,
        episode_start: Array | None = None,
        deterministic: bool = True,
    ) -> tuple[Array, State]:
        """The action for an observation, and the state to hand back at the next call."""
        ...


@runtime_checkable
class Rule(Protocol):
    """A controller that looks into the environment instead of at the observation alone."""

    def bind(self, env: gymnasium.Env[Any, Any]) -> None:
        """Use this environment from now on; called once before the first reset."""
        ...


RULES: Registry[Any] = Registry("controller")
AGENT = "agent:"


def make_controller(name: str, options: Mapping[str, Any] | None = None) -> Controller:
    """The rule called `name`, with the settings in `options` by field name, or the trained agent of `agent:FILE`.

    Agents that come with the package go by name, as in `agent:NAME`.

    Raises:
        UserError: For an unknown rule or option.
    """
    if name.startswith(AGENT):
        from rlprune.agents.rl.sb3 import load_agent  # needs Stable-Baselines3, which rules do not

        if options:
            raise UserError(f"{name} takes no options; it was trained with its own")
        return load_agent(name.removeprefix(AGENT))
    rule = RULES.get(name)
    settings = {f.name: f for f in fields(rule)}
    options = dict(options or {})
    for key in options:
        if key not in settings:
            raise unknown_name(f"option of controller {name!r}", key, settings)
    controller: Controller = rule(**options)
    return controller


def shown_to(controller: Controller, tolerance: float) -> dict[str, Any]:
    """What an environment's observation tells this controller, as arguments of `Rules`.

    The tolerance of the goal, whatever is enforced on the way; but a trained agent that knows one tolerance alone (the
    budget was its goal) sees that one. An agent sees errors if it did in training. Rules look into the environment
    instead, so that errors are not worked out for nothing.

    Args:
        controller: A rule or an agent.
        tolerance: The goal's.
    """
    controller = getattr(controller, "controller", controller)  # of `BestOf` the one that looks
    if isinstance(controller, Rule):
        return {"shown_tolerance": tolerance, "errors": False}
    training = (getattr(controller, "card", None) or {}).get("training", {})
    known = training.get("tolerances", [])
    return {"shown_tolerance": known[0] if len(known) == 1 else tolerance, "errors": training.get("errors")}


@dataclass
class Episode:
    """What one run of a controller through an environment gave.

    Attributes:
        rewards: One a step.
        actions: One a step.
        info: The last step's, which carries the plan and `is_success`.
    """

    rewards: list[float] = field(default_factory=list)
    actions: list[list[float]] = field(default_factory=list)
    info: dict[str, Any] = field(default_factory=dict)

    @property
    def total_reward(self) -> float:
        """Sum of the rewards."""
        return float(sum(self.rewards))


def run_episode(
    env: gymnasium.Env[Any, Any],
    controller: Controller,
    *,
    seed: int | None = None,
    deterministic: bool = True,
    options: dict[str, Any] | None = None,
) -> Episode:
    """Run one episode.

    Example:
        >>> import gymnasium, rlprune
        >>> env = gymnasium.make("rlprune/LayerwisePruning-v0", budget=0.9, control_size=100, calibration_size=32)
        >>> run_episode(env, make_controller("uniform"), seed=0).info["final_macs_share"] <= 0.9
        True
    """
    if isinstance(controller, Rule):
        controller.bind(env)
    observation, _ = env.reset(seed=seed, options=options)
    state: State = None
    start = np.ones(1, dtype=bool)
    episode = Episode()
    while True:
        action, state = controller.predict(observation, state, start, deterministic)
        observation, reward, terminated, truncated, info = env.step(action)
        start = np.zeros(1, dtype=bool)
        episode.rewards.append(float(reward))
        episode.actions.append(np.asarray(action, dtype=float).reshape(-1).tolist())
        if terminated or truncated:
            episode.info = info
            return episode
