"""Reconstruction errors: what the observation tells of them, and the schedule that they advise."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import pytest

from rlprune.agents import make_controller, run_episode
from rlprune.envs.episode.budget import BilinearCost, Budget
from rlprune.envs.episode.damage import Advice, Damage
from rlprune.envs.episode.window import Window
from rlprune.envs.observations import FEATURES
from rlprune.envs.toy import ToyPruningEnv

SIZES = np.array([8, 12, 10])
CHOICES = tuple(np.arange(int(0.9 * size) + 1) for size in SIZES)
POWERS = {"a": (0.2, 3.0), "b": (1.0, 1.5), "c": (0.5, 2.0)}
CURVES = {
    name: height * np.linspace(0, 1, size + 1) ** power
    for (name, (height, power)), size in zip(POWERS.items(), SIZES, strict=True)
}


def budget(share: float | None) -> Budget:
    """Three groups of one unit of cost a filter."""
    one, none = np.ones(3, dtype=np.int64), np.zeros((3, 3), dtype=np.int64)
    cost = BilinearCost(one, SIZES, one, np.eye(3, dtype=np.int64), none)
    target = None if share is None else int(share * SIZES.sum())
    return Budget(cost, np.zeros(3, dtype=np.int64), SIZES, CHOICES, target, default_rate=0.45)


def play(damage: Damage, rules: Budget) -> list[int]:
    advice = Advice(damage, rules)

    def choose(place: int, window: Window) -> int:
        count = window.nearest(round(advice.count()))
        advice.take(count)
        return count

    return rules.fill(choose).tolist()


def total(counts: Any, curves: Any) -> float:
    return float(sum(curve[count] for curve, count in zip(curves, counts, strict=True)))


@pytest.mark.parametrize("share", [0.3, 0.5, 0.7])
def test_the_advice_is_the_least_sum_of_errors(share: float) -> None:
    rules = budget(share)
    damage = Damage.of("abc", CURVES, rules, SIZES / SIZES.sum())
    assert damage is not None and damage.known == (True, True, True)
    feasible = [c for c in itertools.product(*CHOICES) if rules.cost(np.array(c)) <= (rules.target or 0)]
    least = min(total(c, damage.curves) for c in feasible)
    counts = play(damage, rules)
    assert rules.cost(np.array(counts)) <= (rules.target or 0)
    assert total(counts, damage.curves) <= 1.02 * least
    uniform = rules.fill(lambda place, window: window.count(0.0))
    assert total(counts, damage.curves) < 0.95 * total(uniform, damage.curves)


def test_without_a_budget_the_uniform_schedules_cost_is_spent() -> None:
    rules = budget(None)
    damage = Damage.of("abc", CURVES, rules, SIZES / SIZES.sum())
    assert damage is not None
    assert sum(play(damage, rules)) == pytest.approx(0.45 * SIZES.sum(), abs=1.5)


def test_an_unknown_curve_is_the_mean_of_the_others() -> None:
    rules = budget(0.5)
    damage = Damage.of("abc", {"a": CURVES["a"], "c": CURVES["c"]}, rules, SIZES / SIZES.sum())
    assert damage is not None and damage.known == (True, False, True)
    half = (np.interp(0.5, np.arange(9) / 8, CURVES["a"]) + np.interp(0.5, np.arange(11) / 10, CURVES["c"])) / 2
    assert damage.curves[1][6] == pytest.approx(half, rel=1e-2)
    assert Damage.of("abc", {}, rules, SIZES / SIZES.sum()) is None


def named(observation: Any) -> dict[str, float]:
    return dict(zip(FEATURES, np.asarray(observation, dtype=float).tolist(), strict=True))


def test_the_observation_tells_of_errors(layerwise: Callable[..., gymnasium.Env[Any, Any]]) -> None:
    env = layerwise(budget=0.5)
    inner: Any = env.unwrapped
    observation, _ = env.reset()
    over = False
    while not over:
        seen, curve, window = named(observation), inner.curves[inner.group.name], inner.window
        assert seen["has_errors"] == 1.0
        assert seen["error_lo"] <= seen["error_uniform"] <= seen["error_hi"]
        worst = float(curve[round(window[1] * inner.group.size)])
        assert 10 ** (2 * (seen["error_hi"] - 1)) == pytest.approx(max(worst, 1e-4), rel=1e-3)
        before = inner.group.name, inner.group.size
        observation, _, over, _, info = env.step(np.array([seen["advised_action"]], dtype=np.float32))
        assert info["group"] == before[0]
        assert abs(info["rate"] - seen["advised"]) <= 0.51 / before[1]


def test_errors_follow_the_ranking(layerwise: Callable[..., gymnasium.Env[Any, Any]]) -> None:
    inner: Any = layerwise(budget=0.5).unwrapped
    inner.reset()
    name = inner.group.name
    first = inner.curves[name]
    inner.rank({name: -inner.scores[name]})
    assert not np.allclose(inner.curves[name], first)
    inner.reset()
    np.testing.assert_array_equal(inner.curves[name], first)


def test_many_rounds_do_without_unless_asked(iterative: Callable[..., gymnasium.Env[Any, Any]]) -> None:
    assert named(iterative().reset()[0])["has_errors"] == 0.0
    assert named(iterative(errors=True).reset()[0])["has_errors"] == 1.0
    assert named(ToyPruningEnv().reset()[0])["has_errors"] == 0.0, "there are no layers to be read by"


def test_the_shown_tolerance_is_only_shown(layerwise: Callable[..., gymnasium.Env[Any, Any]]) -> None:
    shown, free, kept = (
        layerwise(**kwargs) for kwargs in ({"shown_tolerance": 0.05, "tolerance": 1.0}, {"tolerance": 1.0}, {})
    )
    assert named(shown.reset()[0]) == named(kept.reset()[0]) != named(free.reset()[0])
    assert shown.unwrapped.tolerance == 1.0  # type: ignore[attr-defined]


def test_the_rule_meets_the_budget_with_less_error(layerwise: Callable[..., gymnasium.Env[Any, Any]]) -> None:
    env = layerwise(budget=0.5, errors=False)
    inner: Any = env.unwrapped
    errors = {}
    for name in ("error", "uniform"):
        info = run_episode(env, make_controller(name)).info
        assert info["final_macs_share"] <= 0.5
        inner.reset()
        removed = info["plan"]
        errors[name] = sum(curve[len(removed.get(group, []))] for group, curve in inner.curves.items())
    assert errors["error"] < errors["uniform"]
    toy = ToyPruningEnv()
    assert run_episode(toy, make_controller("error")).info["final_score"] == pytest.approx(toy.uniform_score, abs=0.02)
