"""What a controller is: anything with Stable-Baselines3's `predict`, a trained agent or a rule."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np
import numpy.typing as npt

from rlprune.agents.controllers.law import Law
from rlprune.errors import UserError, guarding
from rlprune.training.settings import TrainSettings

if TYPE_CHECKING:
    import gymnasium

    from rlprune.envs.env import FilterPruningEnv
    from rlprune.network import Network
    from rlprune.problem import PruningProblem

Array = npt.NDArray[Any]
State = tuple[Array, ...] | None
OnTrial = Callable[[int, int, float], None]


class Controller(Protocol):
    """Sets the pruning rate of one channel group after the other.

    The one method is Stable-Baselines3's own, so a trained agent is a controller and a rule runs wherever an agent
    does.
    """

    def predict(
        self, observation: Any, state: State = None, episode_start: Array | None = None, deterministic: bool = True
    ) -> tuple[Array, State]:
        """The action for an observation, and the state to hand back at the next call."""
        ...


class Rule:
    """A controller that looks into the environment it is bound to, and names a count for the current group.

    Attributes:
        press: How to train before a removal, for rules that do; None takes the rule's own way.
        on_trial: Told of every schedule that is tried: how many are done, how many there will be, the best so far.
        remembered: Attributes that the next round needs to know, of tensors and plain values.
    """

    on_trial: OnTrial | None = None
    press: TrainSettings | None = None
    remembered: ClassVar[tuple[str, ...]] = ()
    _env: FilterPruningEnv | None = None

    def bind(self, env: gymnasium.Env[Any, Any]) -> None:
        """Use this environment from now on, from its first round; called once before the first reset."""
        self._env = env.unwrapped  # type: ignore[assignment]

    @property
    def env(self) -> FilterPruningEnv:
        """The environment; raises UserError before `bind`."""
        if self._env is None:
            raise UserError(f"{type(self).__name__} looks into its environment: call bind(env) before predict()")
        return self._env

    def count(self) -> int:
        """How many filters of the environment's current group to remove."""
        raise UserError(f"{type(self).__name__} has no count(); write one that says how many filters to remove")

    def predict(
        self, observation: Any, state: State = None, episode_start: Array | None = None, deterministic: bool = True
    ) -> tuple[Array, State]:
        """The action for that count; (1, 1) for a batch of one observation, as SB3's evaluation passes it."""
        action = self.env.action_for(self.count())
        return (action[None] if np.ndim(observation) == 2 else action), state

    def schedule(self) -> Mapping[str, int] | None:
        """Counts for the aim of the round, found at no cost and without changing anything; None if that cannot be."""
        return None

    def law(self) -> Law | None:
        """Its own law of how far a run goes; None leaves that to the trust region."""
        return None

    def finish(self, network: Network) -> Network:
        """A last touch for the pruned network: a copy, which is kept if it scores no worse; or the network itself."""
        return network

    def state_dict(self) -> dict[str, Any]:
        """What the next round needs to know of the rounds before: what is `remembered`, by name."""
        return {name.lstrip("_"): copy.copy(getattr(self, name)) for name in self.remembered}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict`'s result."""
        for name in self.remembered:
            setattr(self, name, copy.copy(state[name.lstrip("_")]))


class RoundRule(Rule):
    """A rule that decides a whole round before its first group is visited.

    What may go is known then (`env.choices`), and what it decides is fitted into it at once (`env.feasible`), so that
    what was decided is what is executed.
    """

    def plan(self) -> Mapping[str, int]:
        """How many filters each group loses in this round; groups left out lose none."""
        raise NotImplementedError

    def count(self) -> int:
        """The current group's share of the plan."""
        if self.env.visit == 0:
            self._counts = self.env.feasible(self.plan())
        return self._counts.get(self.env.group.name, 0)


_PREDICTS = (
    "it takes (observation, state, episode_start, deterministic) of a pruning environment, gives (action, state)"
)


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
    env: gymnasium.Env[Any, Any] | PruningProblem,
    controller: Controller,
    *,
    seed: int | None = None,
    deterministic: bool = True,
    options: dict[str, Any] | None = None,
    **rules: Any,
) -> Episode:
    """Run one episode.

    Args:
        env: An environment; or a live problem, which is then played as `make_env("layerwise", problem, **rules)`.
        controller: A rule or a trained agent.
        seed: Of the environment's reset.
        deterministic: Whether an agent takes its likeliest action.
        options: Of the environment's reset: `budget` or `tolerance` of this episode.
        rules: Of the environment that is made for a live problem.

    Example:
        >>> import gymnasium, rlprune
        >>> from rlprune.agents import make_controller
        >>> env = gymnasium.make("rlprune/LayerwisePruning-v0", budget=0.9, control_size=100, calibration_size=32)
        >>> run_episode(env, make_controller("uniform"), seed=0).info["final_macs_share"] <= 0.9
        True
    """
    import gymnasium  # not where names of rules are read alone

    if not hasattr(controller, "predict"):
        raise UserError(
            f"controller is a {type(controller).__name__}; make one by rlprune.agents.make_controller(NAME) or "
            "load_agent(FILE), and call run_episode(environment, controller)"
        )
    if not isinstance(env, gymnasium.Env):
        from rlprune.envs.making import make_env

        with contextlib.closing(make_env("layerwise", env, **rules)) as made:
            return run_episode(made, controller, seed=seed, deterministic=deterministic, options=options)
    if rules:
        raise UserError(f"{', '.join(rules)}: an environment brings its rules; give them where it is made")
    if isinstance(controller, Rule):
        controller.bind(env)
    observation, _ = env.reset(seed=seed, options=options)
    state: State = None
    start = np.ones(1, dtype=bool)
    episode = Episode()
    ours = contextlib.nullcontext() if isinstance(controller, Rule) else None
    while True:
        with ours or guarding("the controller's predict failed", _PREDICTS):
            action, state = controller.predict(observation, state, start, deterministic)
        observation, reward, terminated, truncated, info = env.step(action)
        start = np.zeros(1, dtype=bool)
        episode.rewards.append(float(reward))
        episode.actions.append(np.asarray(action, dtype=float).reshape(-1).tolist())
        if terminated or truncated:
            episode.info = info
            return episode
