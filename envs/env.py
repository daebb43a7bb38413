"""The environment: filter pruning as a sequence of rates, one channel group after the other."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray

from rlprune.envs.arguments import read_arguments
from rlprune.envs.episode import saving
from rlprune.envs.episode.cache import ScoreCache, open_store
from rlprune.envs.episode.rewards import Terms
from rlprune.envs.episode.state import TRUNCATED, EpisodeState, Penalty
from rlprune.envs.episode.telling import final_info, step_info
from rlprune.envs.episode.transitions import Repairs, Transitions, repairing
from rlprune.envs.observations import FEATURES
from rlprune.envs.render import draw, write
from rlprune.envs.rules import Rules
from rlprune.envs.view import EpisodeView, Observation
from rlprune.errors import UserError, check_known, check_seed, unknown_name
from rlprune.network import Network
from rlprune.problem import PruningProblem
from rlprune.seeding import streams_untouched
from rlprune.training.settings import TrainSettings


class Predicts(Protocol):
    """What has Stable-Baselines3's `predict`."""

    def predict(
        self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = True
    ) -> tuple[Any, Any]:
        """The action for an observation, and the state to hand back."""
        ...


class FilterPruningEnv(EpisodeView, gymnasium.Env[Observation, NDArray[np.float32]]):
    """Prunes the filters of a network, group by group.

    A step visits one channel group, in execution order; the action sets its pruning rate and the criterion says which
    filters go. A round visits every group that can give a filter. At its end the network is pruned, repaired and
    scored on the control split, and the reward is paid; the steps before pay nothing (unless `dense`).

    The action is one number in [-1, 1]: -1 and 1 are the ends of the group's feasible window, 0 is the uniform rate
    (the rate that, applied to all groups still to come, spends what is left of the budget; without a budget half of
    `max_rate`). It is never clipped further (`rlprune.envs.episode.budget`). The observation has `len(FEATURES)`
    numbers in [-1, 1] (`rlprune.envs.observations`). Neither space depends on the network.

    An episode ends when the tolerance is violated (the last network inside it is kept), when the budget is met, when
    nothing is left to prune, or when a round neither removed nor trained anything: doing nothing is how a controller
    stops. With `one_shot` it ends after its only round. Only `rounds` truncates.

    The network handed back, `accepted`, always has drop <= tolerance on the control split.

    What is pruned is said either in plain values, the fields of `ProblemSpec` by name (`model="resnet20"`, `data=...`),
    and then `env.spec.to_json()` holds all of it and worker processes build their own; or by a live `problem`, which is
    shared and never changed. A live one costs: there is no `env.spec.to_json()`, and only forked workers can have it,
    each by a copy of its memory.

    Args:
        problem: What is pruned, where it is at hand.
        recovery: What repairs a pruned network: a name as in `"lsq+bn"`, or the thing itself.
        finetune_epochs, finetune_lr: For recoveries by name with `finetune`.
        cache: File in which scores are kept and looked up; shared by processes and runs.
        render_mode: `ansi`, `rgb_array` or None.
        options: Fields of `rlprune.envs.Rules` and `ProblemSpec`; `seed` is of both.

    Raises:
        UserError: For any argument that cannot be; says what can.

    Example:
        >>> env = FilterPruningEnv(model="lenet5", control_size=100, tolerance=0.05, skip=["linear"])
        >>> env.reset()[0].shape == env.observation_space.shape
        True
    """

    watch: Callable[[str, float, float], None] | None = None
    """Told how training gets on: what it is for, how much is done, and of how much."""

    metadata = {"render_modes": ["ansi", "rgb_array"], "render_fps": 4}  # noqa: RUF012 (Gymnasium's own form)

    def __init__(
        self,
        *,
        problem: PruningProblem | None = None,
        recovery: str | Repairs = "lsq+bn-delta",
        finetune_epochs: float = 1.0,
        finetune_lr: float = 0.01,
        cache: str | None = None,
        render_mode: str | None = None,
        **options: Any,
    ) -> None:
        if multiprocessing.parent_process() is not None and torch.get_num_threads() != 1:
            torch.set_num_threads(1)  # worker processes are the parallelism
        repair = repairing(recovery, TrainSettings(epochs=finetune_epochs, lr=finetune_lr))
        with streams_untouched():
            found, rules = read_arguments(problem, options)
            self._setup(Transitions(found, repair, open_store(cache), owned=problem is None), rules, render_mode)

    @classmethod
    def from_problem(
        cls,
        problem: PruningProblem,
        rules: Rules | None = None,
        *,
        recovery: str | Repairs = "lsq+bn-delta",
        train_settings: TrainSettings | None = None,
        cache: str | None = None,
        render_mode: str | None = None,
    ) -> FilterPruningEnv:
        """An environment for a problem and rules at hand; the problem is shared, and never changed.

        Args:
            problem: What is pruned.
            rules: The rules.
            recovery: What repairs a pruned network: a name as in `"lsq+bn"`, or the thing itself.
            train_settings: For recoveries that train, when given by name.
            cache: File of scores.
            render_mode: `ansi`, `rgb_array` or None.
        """
        env = cls.__new__(cls)
        transitions = Transitions(problem, repairing(recovery, train_settings), open_store(cache))
        with streams_untouched():
            env._setup(transitions, (rules or Rules()).check(), render_mode)
        return env

    def _setup(self, transitions: Transitions, rules: Rules, render_mode: str | None) -> None:
        if render_mode is not None and render_mode not in self.metadata["render_modes"]:
            raise unknown_name("render_mode", render_mode, self.metadata["render_modes"])
        if rules.confidence and isinstance(transitions.store, ScoreCache):
            raise UserError(
                "confidence needs every network's own answers, which the score cache does not hold: leave one out"
            )
        self.render_mode = render_mode
        self.problem = transitions.problem
        self.rules = rules
        self.observation_space = spaces.Box(-1.0, 1.0, (len(FEATURES),), np.float32)
        self.action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)
        self._episode = EpisodeState(transitions, rules)

    # Between rounds: all of it before a round's first group is visited ---------------------------------------------

    def set_goal(
        self, *, tolerance: float | None = None, budget: float | None = None, max_rate: float | None = None
    ) -> None:
        """Change this episode's goal, and begin the round anew; what is None stays as it is.

        An episode of many rounds that was over goes on by its new goal.

        Args:
            tolerance: Allowed drop; not less than what the accepted network dropped.
            budget: Fraction of the MACs to keep.
            max_rate: Largest rate for one group in one round, also after retries that had halved it.

        Raises:
            UserError: For what cannot be; nothing is changed then.
        """
        self._episode.set_goal(tolerance, budget, max_rate)

    def aim(self, share: float | None) -> None:
        """Let this round alone end at `share` of the unpruned MACs, met to within one filter; None takes it back.

        That does not end the episode, and the next round has no aim until one is set.

        Raises:
            UserError: If the share cannot be met in one round; nothing is changed then.
        """
        self._episode.aim(share)

    def train(self, settings: TrainSettings, penalties: Sequence[Penalty] = (), tag: str = "train") -> None:
        """Train the current network, and score and rank it anew.

        The accepted network stays as it is. `tag` names the purpose, so that its random stream is its own.
        """
        watch = self.watch
        self._episode.train(settings, penalties, tag, None if watch is None else lambda done: watch(tag, done, 1.0))

    def adopt(self, network: Network) -> None:
        """Go on with a network of the current one's widths that was trained elsewhere, and score and rank it anew."""
        if network.plan != self.network.plan:
            raise UserError("the network to go on with lost other filters than the current one; train a copy of that")
        self._episode.go_on_with(self._episode.transitions.state_of(network))

    def rank(self, scores: Mapping[str, NDArray[np.float64]]) -> None:
        """Rank this round's filters by `scores` instead of the criterion's.

        For rules whose ranking changes on the way, or depends on what they remove.
        """
        self._episode.rank_by(scores)

    def rehearse(self, controller: Predicts, deterministic: bool = True) -> dict[str, int]:
        """The counts by group that a controller would take in this round; nothing is scored, and nothing changes."""
        episode, state = self._episode, None
        episode.at_start("a round can be rehearsed")
        while not episode.current.done:
            action, state = controller.predict(self.observation, state, None, deterministic)
            episode.current.take(episode.current.window.count(_number_of(action)))
        counts = episode.current.named(episode.current.counts)
        episode.renew()
        return counts

    def state_dict(self) -> dict[str, Any]:
        """Everything that an environment made with the same arguments needs to go on from here, bit-equal.

        Tensors and plain values only. Raises UserError in the middle of a round.
        """
        return saving.state_dict(self._episode)

    def load_state_dict(self, state: Mapping[str, Any]) -> Observation:
        """Go on from `state_dict`'s result; returns the observation of the current group.

        Raises:
            UserError: If the state is of another environment.
        """
        saving.load_state_dict(self._episode, state)
        return self.observation

    def twin(self) -> FilterPruningEnv:
        """Another environment of the same problem, rules, goal and scores, with an episode of its own."""
        other = FilterPruningEnv.__new__(FilterPruningEnv)
        now = self._episode
        goal = replace(self.rules, budget=now.budget, counted=now.scope.counted, tolerance=self.tolerance)
        other._setup(now.transitions, goal, None)
        return other

    # Gymnasium's interface --------------------------------------------------------------------------------------

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start from the unpruned network. `options` may hold `budget`, `counted` and `tolerance` for this episode.

        Nothing here is drawn at random: the seed that decides anything is the environment's own.
        """
        super().reset(seed=None if seed is None else check_seed(seed))
        for name in options or {}:
            check_known("reset option", name, ("budget", "counted", "tolerance"))
        self._episode.restart(replace(self.rules, **(options or {})))
        return self.observation, step_info(self._episode, self._episode.current.name, 0.0, {})

    def step(self, action: NDArray[np.float32]) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Visit one group. `action` is (1,) in [-1, 1]."""
        if self._episode.stopped is not None:
            raise UserError("this episode is over; call reset() first")
        value = _number_of(action)
        episode, current = self._episode, self._episode.current
        name, before = current.name, current.potential
        rate = current.take(current.window.count(value))
        terms: Terms = {}
        if current.done:
            terms = episode.end_round()
        if self.rules.dense:
            terms = {**terms, "potential": (0.0 if current.done else current.potential) - before}
        truncated = episode.stopped == TRUNCATED
        terminated = episode.stopped is not None and not truncated
        info = step_info(episode, name, rate, terms)
        if episode.stopped is not None:
            info.update(final_info(episode))
        return self.observation, float(sum(terms.values())), terminated, truncated, info

    def render(self) -> Any:
        """The widths as text (`ansi`) or as an image (H, W, 3) of a bar per group (`rgb_array`)."""
        if self.render_mode is None:
            gymnasium.logger.warn("render() without a render_mode; make the environment with render_mode='ansi'")
            return None
        executed, sizes = self._episode.current.executed(), self.scope.sizes
        bars = list(zip(self.scope.names, sizes.tolist(), (sizes - executed).tolist(), strict=True))
        title = (
            f"round {self.round}, score {self.score.value:.4f} (drop {self.drop:+.4f} of {self.tolerance:.4f}), "
            f"{self.scope.macs(executed) / self._episode.base_macs:.3f} of the MACs"
        )
        return write(title, bars) if self.render_mode == "ansi" else draw(title, bars)

    def close(self) -> None:
        """Let go of the file of scores, and free what was measured on the networks."""
        self._episode.close()


def _number_of(action: Any) -> float:
    """The one number of an action; raises UserError unless it is one, and finite."""
    values = np.asarray(action, dtype=np.float64).reshape(-1)
    if len(values) != 1:
        raise UserError(f"the action has {len(values)} numbers; it is one, the rate of one group, in [-1, 1]")
    value = float(values[0])
    if not np.isfinite(value):
        raise UserError(f"the action is {value}; it must be a number in [-1, 1]")
    return value
