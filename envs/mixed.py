"""A training environment that draws network, budget and tolerance anew for every episode."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import gymnasium
from numpy.typing import NDArray

from rlprune.envs.env import FilterPruningEnv
from rlprune.envs.view import Observation
from rlprune.errors import UserError, check_known, check_seed
from rlprune.problem import PruningProblem

GOAL = ("problem", "budget", "tolerance", "counted")
"""What the options of a reset may fix."""


class MixedPruningEnv(gymnasium.Env[Observation, NDArray[Any]]):
    """Several pruning environments in one; every episode plays one of them, with a goal drawn from the sets given.

    Spaces are those of `FilterPruningEnv`, since they do not depend on the network. `info` also says which `problem`
    was drawn (its place in `problems`), and `budget` and `tolerance`. The current environment is `active`; what rules
    look at is passed on to it.

    Args:
        problems: What differs between the environments: for each a mapping of arguments of `FilterPruningEnv`, or a
            live problem (what one costs is said there).
        common: Arguments that all of them share.
        budgets: Fractions of the MACs to keep; one of those that the network can meet is drawn for an episode. None
            leaves each environment its own.
        tolerances: Allowed drops, likewise.
        counted: What a budget is a fraction of, `macs`, `parameters` or both; one is drawn for an episode.
        one_shot, reward, max_rate, seed: As in `FilterPruningEnv`, for all; `gain` is the reward that can be compared
            between networks and budgets.
        render_mode: As in `FilterPruningEnv`.

    Attributes:
        within: Of every network the budgets that it can meet, by what is counted.

    Raises:
        UserError: For arguments that cannot be; a budget must be within reach of one network at least, and a network
            of one budget.
    """

    metadata = FilterPruningEnv.metadata

    def __init__(
        self,
        problems: Sequence[Mapping[str, Any] | PruningProblem] = ({},),
        common: Mapping[str, Any] | None = None,
        *,
        budgets: Sequence[float] | None = (0.3, 0.4, 0.5, 0.6, 0.7),
        tolerances: Sequence[float] | None = None,
        counted: Sequence[str] = ("macs",),
        one_shot: bool = True,
        reward: str = "gain",
        max_rate: float = 0.9,
        seed: int = 0,
        render_mode: str | None = None,
    ) -> None:
        if not problems:
            raise UserError("problems is empty; give at least one, as in [{'model': 'lenet5'}]")
        for name, values in (("budgets", budgets), ("tolerances", tolerances), ("counted", counted)):
            if values is not None and not len(values):
                raise UserError(f"{name} is empty; give at least one value, or None")
        self.render_mode = render_mode
        rules = {"one_shot": one_shot, "reward": reward, "max_rate": max_rate, "seed": seed, "render_mode": render_mode}
        given = [problem if isinstance(problem, Mapping) else {"problem": problem} for problem in problems]
        self.envs = [FilterPruningEnv(**{**rules, **(common or {}), **arguments}) for arguments in given]
        self.counted = tuple(counted)
        self.budgets = None if budgets is None else [float(b) for b in budgets]
        self.tolerances = None if tolerances is None else [float(t) for t in tolerances]
        self.within = [{kind: self._within_reach(env, kind) for kind in self.counted} for env in self.envs]
        for budget in self.budgets or []:  # a goal that none of them can meet is found now, not hours later
            if not any(budget in budgets for found in self.within for budgets in found.values()):
                self.envs[0].reset(options={"budget": budget})
        self.observation_space = self.envs[0].observation_space
        self.action_space = self.envs[0].action_space
        self._number = 0
        self._goal: dict[str, Any] = {}

    def _within_reach(self, env: FilterPruningEnv, counted: str) -> list[float]:
        """The budgets that a network can meet; raises UserError where that is none of them."""
        for tolerance in self.tolerances or []:
            env.reset(options={"tolerance": tolerance})
        found = []
        for budget in self.budgets or []:
            with suppress(UserError):
                env.reset(options={"budget": budget, "counted": counted})
                found.append(budget)
        if self.budgets and not found:
            env.reset(options={"budget": max(self.budgets), "counted": counted})
        return found

    @property
    def active(self) -> FilterPruningEnv:
        """The environment of the current episode."""
        return self.envs[self._number]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or "envs" not in self.__dict__:
            raise AttributeError(name)
        return getattr(self.active, name)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Draw an episode. `options` may fix its `problem` (a number), `budget`, `tolerance` and `counted`."""
        super().reset(seed=None if seed is None else check_seed(seed))
        options = dict(options or {})
        for name in options:
            check_known("reset option", name, GOAL)
        drawn = int(self.np_random.integers(len(self.envs)))
        self._number = int(options.pop("problem", drawn))
        if not 0 <= self._number < len(self.envs):
            raise UserError(f"problem is {self._number}; it must lie in 0 to {len(self.envs) - 1}")
        several = len(self.counted) > 1  # else nothing is drawn, and nothing told
        goal: dict[str, Any] = (
            {"counted": self.counted[int(self.np_random.integers(len(self.counted)))]} if several else {}
        )
        counted = options.get("counted", goal.get("counted", self.counted[0]))
        budgets = self.within[self._number].get(counted, self.budgets)
        for name, values in (("budget", budgets), ("tolerance", self.tolerances)):
            if values:
                goal[name] = values[int(self.np_random.integers(len(values)))]
        self._goal = {"counted": counted, **goal, **options}
        observation, info = self.active.reset(options=self._goal)
        return observation, self._told(info)

    def step(self, action: NDArray[Any]) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Visit one group of the drawn network."""
        observation, reward, terminated, truncated, info = self.active.step(action)
        return observation, reward, terminated, truncated, self._told(info)

    def render(self) -> Any:
        """The current episode, as `FilterPruningEnv` draws it."""
        return self.active.render()

    def close(self) -> None:
        """Close all of the environments."""
        for env in self.envs:
            env.close()

    def _told(self, info: dict[str, Any]) -> dict[str, Any]:
        return {**info, "problem": self._number, **self._goal}
