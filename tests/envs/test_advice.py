"""Actions around the advised rate."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import pytest

from rlprune.agents import make_controller, run_episode
from rlprune.envs import AroundAdvice
from rlprune.envs.advice import around_advice
from rlprune.envs.observations import FEATURES

PLACE = FEATURES.index("advised_action")


def seen(advised: float) -> Any:
    observation = np.zeros(len(FEATURES), np.float32)
    observation[PLACE] = advised
    return observation


@pytest.mark.parametrize("advised", [-1.0, -0.4, 0.0, 0.7, 1.0])
def test_the_map_is_monotone_keeps_the_ends_and_sends_zero_to_the_advice(advised: float) -> None:
    actions = np.linspace(-1.0, 1.0, 41, dtype=np.float32)[:, None]
    mapped = around_advice(actions, np.tile(seen(advised), (41, 1)))[:, 0]
    assert (np.diff(mapped) >= 0).all()
    np.testing.assert_allclose(mapped[[0, 20, 40]], [-1.0, advised, 1.0], atol=1e-6)
    one = around_advice(actions[7], seen(advised))
    assert one.shape == (1,) and one[0] == mapped[7]


class Still:
    """Always action 0."""

    def predict(self, observation: Any, *others: Any, **more: Any) -> tuple[Any, None]:
        return np.zeros(1, np.float32), None


def test_doing_nothing_is_the_rule_of_least_error(layerwise: Callable[..., gymnasium.Env[Any, Any]]) -> None:
    env = layerwise(budget=0.5)
    still, rule = run_episode(AroundAdvice(env), Still()), run_episode(env, make_controller("error"))
    assert still.info["plan"] == rule.info["plan"]
    assert still.info["plan"] != run_episode(env, make_controller("uniform")).info["plan"]


def test_nothing_changes_where_nothing_is_advised(layerwise: Callable[..., gymnasium.Env[Any, Any]]) -> None:
    env = layerwise(budget=0.5, errors=False)
    still, rule = run_episode(AroundAdvice(env), Still()), run_episode(env, make_controller("uniform"))
    assert still.info["plan"] == rule.info["plan"]
