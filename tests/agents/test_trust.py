"""An agent is followed where it was trained, and fades to the advised rate elsewhere."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from rlprune.agents.rl.sb3 import FAMILIAR, STRANGE, TrainedAgent, trust
from rlprune.envs.observations import FEATURES

SIZE = len(FEATURES)
SUPPORT = {"low": [-0.5] * SIZE, "high": [0.5] * SIZE}
ADVISED = FEATURES.index("advised_action")


def outside(distance: float) -> Any:
    """An observation that leaves the support by `distance`, half of it at either end."""
    observation = np.zeros(SIZE, np.float32)
    observation[0], observation[1] = -0.5 - distance / 2, 0.5 + distance / 2
    return observation


@pytest.mark.parametrize(
    ("distance", "expected"),
    [(-0.2, 1.0), (FAMILIAR, 1.0), ((FAMILIAR + STRANGE) / 2, 0.5), (STRANGE, 0.0), (0.9, 0.0)],
)
def test_trust_falls_with_the_distance_from_what_was_seen(distance: float, expected: float) -> None:
    one = trust(outside(distance), SUPPORT)
    assert one == pytest.approx(expected, abs=1e-5)
    several = trust(np.stack([outside(distance), outside(-0.1)]), SUPPORT)
    assert several.shape == (2,) and several[0] == one and several[1] == 1.0


def test_a_card_may_name_any_finite_bounds() -> None:
    assert trust(outside(0.0), {"low": [1e308] * SIZE, "high": [-1e308] * SIZE}) == 0.0


class Bold:
    """A model whose policy always goes to the end of the window."""

    action_space = None

    def predict(self, observation: Any, *others: Any) -> tuple[Any, None]:
        return np.ones((*np.shape(observation)[:-1], 1), np.float32), None


def test_a_strange_network_gets_the_advised_rate() -> None:
    model: Any = Bold()
    agent = TrainedAgent(model, {"around": "advice", "support": SUPPORT})
    familiar, strange = outside(-0.2), outside(0.9)
    familiar[ADVISED] = strange[ADVISED] = 0.25
    assert agent.predict(familiar)[0] == 1.0
    assert agent.predict(strange)[0] == 0.25
    assert TrainedAgent(model, {"support": SUPPORT}).predict(strange)[0] == 0.0, "the uniform rate"
    assert TrainedAgent(model, {}).predict(strange)[0] == 1.0
