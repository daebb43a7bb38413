"""Other ways to act, and a record of what was done."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs
from numpy.typing import NDArray

from rlprune.envs.env import FilterPruningEnv
from rlprune.envs.view import Observation
from rlprune.errors import UserError, check_known
from rlprune.files import write_json

Step = tuple[Observation, float, bool, bool, dict[str, Any]]


def pruning_env(env: gymnasium.Env[Any, Any]) -> FilterPruningEnv:
    """The pruning environment inside wrappers; raises UserError if there is none."""
    inner = env.unwrapped
    inner = getattr(inner, "active", inner)  # of a mixed environment
    if not isinstance(inner, FilterPruningEnv):
        raise UserError(
            f"{type(inner).__name__} is not a pruning environment; make one with rlprune/LayerwisePruning-v0"
        )
    return inner


class WholeNetworkAction(gymnasium.Wrapper[Observation, Any, Observation, NDArray[np.float32]], RecordConstructorArgs):
    """One action for a whole round: a vector with an entry for every group, or one number for all of them.

    An entry in [-1, 1] proposes the rate `(entry + 1) / 2 * max_rate`. Under a budget the proposal is repaired by one
    multiplier, so only the proportions count and any constant vector is the uniform schedule. A group that has nothing
    left to give in a round ignores its entry. The length of the vector depends on the network, the one number does not.

    Args:
        env: A pruning environment.
        mode: `vector` or `global`.
    """

    def __init__(self, env: gymnasium.Env[Any, Any], mode: str = "vector") -> None:
        RecordConstructorArgs.__init__(self, mode=mode)
        gymnasium.Wrapper.__init__(self, env)
        check_known("mode", mode, ("vector", "global"))
        self._inner = pruning_env(env)
        length = len(self._inner.scope.names) if mode == "vector" else 1
        self.action_space = spaces.Box(-1.0, 1.0, (length,), np.float32)

    def step(self, action: Any) -> Step:
        """Play one round. The reward is the round's, `info["rates"]` holds every executed rate."""
        inner = self._inner
        entries = np.broadcast_to(np.asarray(action, dtype=np.float64).reshape(-1), (len(inner.scope.names),))
        if not np.isfinite(entries).all():
            raise UserError("the action holds NaN or infinity; every entry must be a number in [-1, 1]")
        rates = (np.clip(entries, -1.0, 1.0) + 1.0) / 2.0 * inner.rate_cap
        counts = inner.budget.repair(rates[inner.visited])
        total, executed = 0.0, {}
        for count in counts:
            observation, reward, terminated, truncated, info = self.env.step(inner.action_for(int(count)))
            total += float(reward)
            executed[info["group"]] = info["rate"]
        return observation, total, terminated, truncated, {**info, "rates": executed}


class DiscreteRates(gymnasium.ActionWrapper[Observation, Any, NDArray[np.float32]], RecordConstructorArgs):
    """A fixed number of evenly spaced actions, for algorithms such as DQN; the middle one is the uniform rate.

    Args:
        env: A pruning environment.
        levels: How many; odd, so that there is a middle.
    """

    def __init__(self, env: gymnasium.Env[Any, Any], levels: int = 11) -> None:
        RecordConstructorArgs.__init__(self, levels=levels)
        gymnasium.ActionWrapper.__init__(self, env)
        if levels < 3 or levels % 2 == 0:
            raise UserError(f"levels is {levels}; it must be an odd number of at least 3, so that one level is uniform")
        self._levels = np.linspace(-1.0, 1.0, levels, dtype=np.float32)
        self.action_space = spaces.Discrete(levels)

    def action(self, action: Any) -> NDArray[np.float32]:
        """The action of a level."""
        level: NDArray[np.float32] = self._levels[int(action) : int(action) + 1].copy()
        return level


class RecordEpisode(gymnasium.Wrapper[Observation, Any, Observation, Any], RecordConstructorArgs):
    """Writes a JSON file for every finished episode: actions, rewards, rounds, and the plan.

    Args:
        env: A pruning environment, wrapped or not.
        folder: Where `episode-000000.json`, `episode-000001.json` ... go. Numbers that are taken are passed over.
    """

    def __init__(self, env: gymnasium.Env[Any, Any], folder: str = "episodes") -> None:
        RecordConstructorArgs.__init__(self, folder=folder)
        gymnasium.Wrapper.__init__(self, env)
        self._inner = pruning_env(env)
        self._folder = Path(folder)
        self._number = 0
        self._steps: list[dict[str, Any]] = []

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start an episode; one that was not finished is not written."""
        self._steps = []
        return self.env.reset(seed=seed, options=options)

    def step(self, action: Any) -> Step:
        """Step, and write the episode if this was its last."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        self._steps.append(
            {
                "action": np.asarray(action).reshape(-1).tolist(),
                "reward": float(reward),
                "group": info["group"],
                "rate": info["rate"],
            }
        )
        if terminated or truncated:
            while (path := self._folder / f"episode-{self._number:06d}.json").exists():
                self._number += 1
            final = {key: value for key, value in info.items() if key not in ("group", "rate", "reward_terms")}
            write_json(path, {"steps": self._steps, "rounds": self._inner.history, "final": final})
        return observation, float(reward), terminated, truncated, info
