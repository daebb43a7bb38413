"""The environment: filter pruning as a sequence of rates, one channel group after the other."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from rlprune.channels import ChannelGroup
from rlprune.envs.episode.budget import Budget, Counts, Window
from rlprune.envs.episode.cache import open_store
from rlprune.envs.episode.rewards import Terms
from rlprune.envs.episode.rounds import Scope
from rlprune.envs.episode.state import TRUNCATED, EpisodeState, Penalty
from rlprune.envs.episode.transitions import Transitions, combine
from rlprune.envs.observations import FEATURES, observation
from rlprune.envs.rules import EnvSettings
from rlprune.envs.workers import single_thread_in_workers
from rlprune.errors import UserError, unknown_name
from rlprune.network import Network
from rlprune.problem import PruningProblem
from rlprune.recovery import Recovery, TrainSettings, make_recovery
from rlprune.spec import ProblemSpec
from rlprune.tasks import Score

Observation = NDArray[np.float32]


@lru_cache(maxsize=4)
def shared_problem(spec: ProblemSpec) -> PruningProblem:
    """The problem of `spec`; environments of one process share it, since nothing ever changes it."""
    return spec.build()


class FilterPruningEnv(gymnasium.Env[Observation, NDArray[np.float32]]):
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

    Args:
        model, data, weights, root, control_from, keep, min_channels, round_to, control_size, calibration_size, device:
            What is pruned; see `ProblemSpec`.
        criterion: How filters are ranked.
        recovery: What repairs a pruned network, as in `"lsq+bn"`.
        finetune_epochs, finetune_lr: For recoveries with `finetune`.
        reward: Name of the reward; see `rlprune.envs.episode.rewards`.
        tolerance: Allowed drop of the control score, in [0, 1].
        budget: Fraction of the MACs to keep, in (0, 1]. With `one_shot` it is met to within one filter by
            construction; else the episode ends once it is met. None: no budget.
        max_rate: Largest rate for one group in one round, a hard limit.
        rounds: Rounds after which the episode is truncated; None for no limit.
        one_shot: One round, then the end: no rollback, the budget is met at once.
        on_violation: `stop` ends the episode, `retry` goes back, halves the largest rate, and goes on.
        dense: Add a potential-based term for every step; it adds up to zero over a round.
        skip: Kinds of groups to leave alone, such as `["residual"]`.
        errors: Whether the observation tells what the groups' removal costs their readers. None: with `one_shot` only,
            since every round needs new Gram matrices, and a factorisation for every layer.
        shown_tolerance: The tolerance that the observation tells of, where it is not the one that is kept.
        cache: File in which scores are kept and looked up; shared by processes and runs.
        seed: Of everything random: data split, ranking, recovery.
        render_mode: `ansi`, `rgb_array` or None.

    Raises:
        UserError: For any argument that cannot be; says what can.
    """

    watch: Callable[[str, float, float], None] | None = None
    """Told how training gets on: what it is for, how much is done, and of how much."""

    metadata = {"render_modes": ["ansi", "rgb_array"], "render_fps": 4}  # noqa: RUF012 (Gymnasium's own form)

    def __init__(
        self,
        model: str = "lenet5",
        data: str = "digits",
        weights: str | None = None,
        root: str | None = None,
        *,
        control_from: str | None = None,
        keep: Sequence[str] = (),
        min_channels: int = 2,
        round_to: int = 1,
        control_size: int | None = None,
        calibration_size: int | None = None,
        criterion: str = "l1",
        recovery: str = "lsq+bn-delta",
        finetune_epochs: float = 1.0,
        finetune_lr: float = 0.01,
        reward: str = "tolerance",
        tolerance: float = 0.01,
        budget: float | None = None,
        max_rate: float = 0.5,
        rounds: int | None = None,
        one_shot: bool = False,
        on_violation: str = "stop",
        dense: bool = False,
        skip: Sequence[str] = (),
        errors: bool | None = None,
        shown_tolerance: float | None = None,
        cache: str | None = None,
        seed: int = 0,
        device: str = "cpu",
        render_mode: str | None = None,
    ) -> None:
        single_thread_in_workers()
        settings = EnvSettings(
            criterion,
            reward,
            tolerance,
            budget,
            max_rate,
            rounds,
            one_shot,
            on_violation,
            dense,
            tuple(skip),
            seed,
            errors,
            shown_tolerance,
        )
        repair = make_recovery(recovery, TrainSettings(epochs=finetune_epochs, lr=finetune_lr))
        spec = ProblemSpec(
            model=model,
            data=data,
            weights=weights,
            root=root,
            seed=seed,
            device=device,
            control_from=control_from,
            control_size=control_size,
            calibration_size=calibration_size,
            keep=tuple(keep),
            min_channels=min_channels,
            round_to=round_to,
        )
        key = combine(recovery, finetune_epochs, finetune_lr)
        self._setup(Transitions(shared_problem(spec), repair, key, open_store(cache)), settings, render_mode)

    @classmethod
    def from_problem(
        cls,
        problem: PruningProblem,
        settings: EnvSettings | None = None,
        *,
        recovery: str | Recovery = "lsq+bn-delta",
        train_settings: TrainSettings | None = None,
        cache: str | None = None,
        render_mode: str | None = None,
    ) -> FilterPruningEnv:
        """An environment for a problem at hand; the problem is shared, and never changed.

        Args:
            problem: What is pruned.
            settings: The rules.
            recovery: What repairs a pruned network: a name as in `"lsq+bn"`, or the thing itself.
            train_settings: For recoveries that train, when given by name.
            cache: File of scores; only for recoveries given by name.
            render_mode: `ansi`, `rgb_array` or None.
        """
        env = cls.__new__(cls)
        key, store = combine(recovery, train_settings), open_store(cache)
        if isinstance(recovery, str):
            recovery = make_recovery(recovery, train_settings or TrainSettings())
        elif cache is not None:
            raise UserError("a cache of scores needs the recovery by name, since the name is part of the key")
        env._setup(Transitions(problem, recovery, key, store), settings or EnvSettings(), render_mode)
        return env

    def _setup(self, transitions: Transitions, settings: EnvSettings, render_mode: str | None) -> None:
        if render_mode is not None and render_mode not in self.metadata["render_modes"]:
            raise unknown_name("render_mode", render_mode, self.metadata["render_modes"])
        self.render_mode = render_mode
        self.problem = transitions.problem
        self.settings = settings
        self.observation_space = spaces.Box(-1.0, 1.0, (len(FEATURES),), np.float32)
        self.action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)
        self._episode = EpisodeState(transitions, settings)

    # What a rule may look at ------------------------------------------------------------------------------------

    @property
    def network(self) -> Network:
        """The network as it is at the start of this round."""
        return self._episode.state.network

    @property
    def scope(self) -> Scope:
        """All groups that rounds may visit, and their cost."""
        return self._episode.scope

    @property
    def score(self) -> Score:
        """The current network's control score."""
        return self._episode.score

    @property
    def scores(self) -> dict[str, NDArray[np.float64]]:
        """The criterion's score of every filter of the current network, by group."""
        return self._episode.scores

    @property
    def curves(self) -> Mapping[str, NDArray[np.float64]]:
        """The measured errors (size + 1,) after the loss of 0, 1, 2 ... lowest filters, by group of this round."""
        damage = self._episode.damage
        if damage is None:
            return {}
        found = zip(self._episode.current.names, damage.curves, damage.known, strict=True)
        return {name: curve for name, curve, known in found if known}

    @property
    def advised(self) -> float:
        """The count, a fraction, at which the errors of this and all later groups sum to least within the budget.

        See `rlprune.criteria.errors`; where no error can be known, the uniform rate's count.
        """
        damage, current = self._episode.damage, self._episode.current
        if damage is None:
            return current.window.uniform_rate * current.window.size
        return damage.advised(current.budget, current.place, current.counts)

    @property
    def advised_rates(self) -> NDArray[np.float64]:
        """The rates (n,) of a whole round at which the errors sum to least; the uniform ones where none is known."""
        damage, budget = self._episode.damage, self.budget

        def choose(group: int, counts: Counts, window: Window) -> int:
            return window.count(0.0) if damage is None else window.nearest(damage.advised(budget, group, counts))

        return np.asarray(budget.fill(choose) / budget.sizes)

    @property
    def round(self) -> int:
        """How many rounds are done."""
        return self._episode.round

    @property
    def rounds_left(self) -> float | None:
        """Rounds still expected, or None if nobody can know."""
        return self._episode.rounds_left

    @property
    def tolerance(self) -> float:
        """The drop that this episode allows."""
        return self._episode.tolerance

    @property
    def history(self) -> list[dict[str, Any]]:
        """A record of every round done: rates, counts, cost, score, drop, reward terms."""
        return self._episode.history

    @property
    def accepted(self) -> Network:
        """The last network whose drop is inside the tolerance: what is handed back."""
        return self._episode.accepted.network

    @property
    def baseline(self) -> Score:
        """The unpruned network's control score."""
        return self.problem.baseline

    @property
    def drop(self) -> float:
        """Baseline minus the current score."""
        return self._episode.drop

    @property
    def prunable(self) -> list[ChannelGroup]:
        """The groups of this round in the order of the visits, as they are at its start."""
        return [self.network.groups[name] for name in self._episode.current.names]

    @property
    def group(self) -> ChannelGroup:
        """The group that the next action is for."""
        return self.network.groups[self._episode.current.name]

    @property
    def visit(self) -> int:
        """How many groups of this round were visited: 0 at its start."""
        return self._episode.current.visit

    @property
    def visited(self) -> list[int]:
        """The places in `scope.names` of this round's groups."""
        return list(self._episode.current.visited)

    @property
    def rate_cap(self) -> float:
        """The largest rate allowed now: `max_rate`, halved at every retry."""
        return self._episode.cap

    @property
    def window(self) -> tuple[float, float]:
        """The least and the greatest feasible rate of the current group."""
        return self._episode.current.window.rates

    @property
    def uniform_rate(self) -> float:
        """The rate that action 0 stands for."""
        return self._episode.current.window.uniform_rate

    @property
    def budget(self) -> Budget:
        """This round's budget, over `prunable`."""
        return self._episode.current.budget

    @property
    def observation(self) -> Observation:
        """The observation of the current group."""
        current = self._episode.current
        return observation(current.features[current.place], self._episode.progress())

    def action_for(self, count: int) -> Observation:
        """The action (1,) that removes exactly `count` filters of the current group.

        A count outside the window is first moved to the nearest feasible one.
        """
        window = self._episode.current.window
        return np.array([window.action(window.nearest(count))], dtype=np.float32)

    def preview(self, counts: Counts) -> tuple[Score, Terms]:
        """What this round would come to if its groups lost `counts` (one for each of `prunable`), recovery included.

        Costs an evaluation, changes nothing; playing the same counts afterwards finds the score again.
        """
        return self._episode.preview(counts)

    @property
    def state_key(self) -> str:
        """The key under which scores of what is made from the current network are kept."""
        return self._episode.state.key

    def key_of(self, removed: Mapping[str, int]) -> str:
        """The key of the network that this round would make by removing the `removed` lowest filters by group."""
        return self._episode.next(removed).key

    def train(
        self,
        settings: TrainSettings,
        penalties: Sequence[Penalty] = (),
        tag: str = "train",
    ) -> None:
        """Train the current network, before the first group of a round is visited, and score and rank it anew.

        The accepted network stays as it is. `tag` names the purpose, so that its random stream is its own.
        """
        watch = self.watch
        self._episode.train(settings, penalties, tag, None if watch is None else lambda done: watch(tag, done, 1.0))

    def rank(self, scores: Mapping[str, NDArray[np.float64]]) -> None:
        """Rank this round's filters by `scores` instead of the criterion's, before the first group is visited.

        For rules whose ranking changes on the way, or depends on what they remove.
        """
        self._episode.rank_by(scores)

    def twin(self) -> FilterPruningEnv:
        """Another environment of the same problem, rules, goal and scores, with an episode of its own."""
        other = FilterPruningEnv.__new__(FilterPruningEnv)
        episode = self._episode
        settings = replace(self.settings, budget=episode.budget, tolerance=episode.tolerance)
        other._setup(episode.transitions, settings, None)
        return other

    # Gymnasium's interface --------------------------------------------------------------------------------------

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start from the unpruned network. `options` may hold a `budget` and a `tolerance` for this episode.

        Nothing here is drawn at random: the seed that decides anything is the environment's own.
        """
        super().reset(seed=seed)
        for name in options or {}:
            if name not in ("budget", "tolerance"):
                raise unknown_name("reset option", name, ("budget", "tolerance"))
        self._episode.restart(replace(self.settings, **(options or {})))
        return self.observation, self._episode.info(self._episode.current.name, 0.0, {})

    def step(self, action: NDArray[np.float32]) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Visit one group. `action` is (1,) in [-1, 1]."""
        if self._episode.stopped is not None:
            raise UserError("this episode is over; call reset() first")
        value = float(np.asarray(action, dtype=np.float64).reshape(-1)[0])
        if not np.isfinite(value):
            raise UserError(f"the action is {value}; it must be a number in [-1, 1]")
        episode, current = self._episode, self._episode.current
        name, before = current.name, current.potential
        rate = current.take(current.window.count(value))
        terms: Terms = {}
        if current.done:
            terms = episode.end_round()
        if self.settings.dense:
            terms = {**terms, "potential": (0.0 if current.done else current.potential) - before}
        truncated = episode.stopped == TRUNCATED
        terminated = episode.stopped is not None and not truncated
        info = episode.info(name, rate, terms)
        if episode.stopped is not None:
            info.update(episode.final_info())
        return self.observation, float(sum(terms.values())), terminated, truncated, info

    def render(self) -> Any:
        """The widths as text (`ansi`) or as an image (H, W, 3) of a bar per group (`rgb_array`)."""
        from rlprune.envs.render import draw, write

        if self.render_mode is None:
            gymnasium.logger.warn("render() without a render_mode; make the environment with render_mode='ansi'")
            return None
        executed, sizes = self._episode.current.executed, self.scope.sizes
        left = (sizes - executed).tolist()
        bars = list(zip(self.scope.names, sizes.tolist(), left, strict=True))
        title = (
            f"round {self.round}, score {self.score.value:.4f} (drop {self.drop:+.4f} of {self.tolerance:.4f}), "
            f"{self.scope.macs(executed) / self._episode.base_macs:.3f} of the MACs"
        )
        return write(title, bars) if self.render_mode == "ansi" else draw(title, bars)

    # Stopping and going on --------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Everything that an environment made with the same arguments needs to go on from here, bit-equal.

        Tensors and plain values only. Raises UserError in the middle of a round.
        """
        return self._episode.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> Observation:
        """Go on from `state_dict`'s result; returns the observation of the current group.

        Raises:
            UserError: If the state is of another environment.
        """
        self._episode.load_state_dict(state)
        return self.observation
