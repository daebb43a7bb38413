"""Actions around the advised rate instead of the uniform one: a warm start from the rule of least error."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium.utils import RecordConstructorArgs
from numpy.typing import NDArray

from rlprune.envs.observations import FEATURES

_ADVISED = FEATURES.index("advised_action")

Actions = NDArray[np.float32]


def around_advice(action: NDArray[Any], observation: NDArray[np.float32]) -> Actions:
    """The environment's action for one that is meant around the advised rate.

    Piecewise linear: 0 is the advised action a, -1 and 1 stay the ends of the window. Where nothing is advised, a is 0
    and nothing changes.

    Args:
        action: In [-1, 1], (1,) or (n, 1).
        observation: What the agent saw, (features,) or (n, features).
    """
    advised = observation[..., _ADVISED, None]
    reach = np.where(action < 0.0, 1.0 + advised, 1.0 - advised)
    return np.asarray(np.clip(advised + action * reach, -1.0, 1.0), dtype=np.float32)


class AroundAdvice(gymnasium.ActionWrapper[Any, Any, Any], RecordConstructorArgs):
    """Action 0 executes the advised rate: the one at which reconstruction errors sum to least (rule `error`).

    An untrained agent then plays that rule, and what is learned is where to leave it.
    """

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        RecordConstructorArgs.__init__(self)
        gymnasium.ActionWrapper.__init__(self, env)
        self._seen = np.zeros(len(FEATURES), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Reset, and remember what is seen."""
        self._seen, info = self.env.reset(seed=seed, options=options)
        return self._seen, info

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Step, and remember what is seen."""
        self._seen, reward, terminated, truncated, info = self.env.step(self.action(action))
        return self._seen, float(reward), terminated, truncated, info

    def action(self, action: Any) -> Actions:
        """The inner environment's action."""
        return around_advice(np.asarray(action, dtype=np.float32).reshape(1), self._seen)
