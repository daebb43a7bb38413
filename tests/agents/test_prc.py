"""The exact tests of the min–max controller, and what it does in a real environment."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlprune.agents import run_episode
from rlprune.agents.controllers.prc import PRC, largest_harmless, pressure
from rlprune.envs import FilterPruningEnv, Rules
from rlprune.spec import ProblemSpec
from rlprune.tasks import Score

fractions = st.floats(0, 1)


@given(accuracy=fractions, baseline=fractions, tolerance=fractions)
def test_pressure_is_never_negative_and_zero_at_or_beyond_the_edge(accuracy, baseline, tolerance):
    value = pressure(accuracy, baseline, tolerance)
    assert value >= 0
    if accuracy <= baseline - tolerance and tolerance > 0:
        assert value == 0


@given(baseline=st.floats(0.5, 1), tolerance=st.floats(0.01, 0.5), share=fractions)
def test_pressure_falls_linearly_from_one_to_zero(baseline, tolerance, share):
    assert pressure(baseline - share * tolerance, baseline, tolerance) == pytest.approx(1 - share, abs=1e-9)


@given(drops=st.lists(st.floats(0, 1), max_size=60), tolerance=fractions)
def test_bisection_finds_the_tolerance_on_a_monotone_curve(drops, tolerance):
    curve = [0.0, *np.cumsum(drops)]
    calls = []

    def drop(count):
        calls.append(count)
        return curve[count]

    found = largest_harmless(len(drops), drop, tolerance)
    assert found == max(k for k in range(len(curve)) if curve[k] <= tolerance)
    assert len(calls) <= np.ceil(np.log2(len(drops) + 1)) + 1


@pytest.mark.parametrize("option", ["penalty", "delta", "afp_epochs", "lr", "orthogonality"])
def test_constants_must_be_finite_and_not_negative(option):
    with pytest.raises(ValueError, match=option):
        PRC(**{option: -1.0})


def pressed_too_hard(delta: float, on_violation: str):
    """A game whose first removal leaves the tolerance; the environment, and why it ended."""
    settings = Rules(tolerance=0.002, max_rate=0.9, on_violation=on_violation)
    env = FilterPruningEnv.from_problem(ProblemSpec().build(), settings, recovery="none")
    controller = PRC(alpha=0.9, delta=delta, afp_epochs=0.0, probe_recovery="none", patience=2)
    return env, run_episode(env, controller).info["stopped"]


def at_the_edge(score: float, **options: float):
    """A controller whose network scores `score`: from 0.5 down that is beyond the tolerance's edge."""
    settings = Rules(tolerance=0.1, max_rate=0.9)
    env = FilterPruningEnv.from_problem(ProblemSpec().build(), settings, recovery="none")
    env.reset()
    controller = PRC(afp_epochs=0.0, probe_recovery="none", **options)
    controller.bind(env)
    env._episode.score = Score(score, 100)
    return controller, env


def test_at_the_edge_the_published_threshold_removes_nothing():
    """T = 0 means recovery training alone, even where a removal would cost nothing."""
    controller, _ = at_the_edge(0.5, rebisect=False)
    assert not any(controller._plan_round().values())


@pytest.mark.parametrize(("after", "removes"), [(0.5, True), (0.499, False)])
def test_at_the_edge_a_threshold_found_anew_removes_what_costs_nothing(after, removes, monkeypatch):
    controller, env = at_the_edge(0.5, rebisect=True)
    monkeypatch.setattr(env.problem.evaluator, "score", lambda *_: Score(after, 100))
    assert any(controller._plan_round().values()) == removes


def test_the_published_threshold_scales_the_first_one(monkeypatch):
    """W_γ = δ_w · T/ε · W_0."""
    controller, _ = at_the_edge(1.0, rebisect=False, delta=0.8)
    monkeypatch.setattr(PRC, "_bisect", lambda *_: 5.0)
    for slack in (1.0, 0.5, 0.25):
        monkeypatch.setattr(PRC, "_pressure", lambda _, slack=slack: slack)
        assert controller._threshold([], controller.delta) == pytest.approx(0.8 * slack * 5.0)


def test_u_is_the_weakest_share_of_every_group():
    controller, env = at_the_edge(1.0, alpha=0.25)
    for group in env.prunable:
        weakest = controller._weakest()[group.name]
        assert len(weakest) == max(1, int(0.25 * group.size))
        assert set(weakest) == set(np.argsort(env.scores[group.name])[: len(weakest)])


def test_after_a_setback_it_takes_less_and_goes_on():
    alone, _ = pressed_too_hard(100.0, "stop")
    env, _ = pressed_too_hard(100.0, "retry")
    assert [line["accepted"] for line in alone.history] == [False]
    assert not alone.accepted.plan and env.accepted.plan
    lost = [sum(line["removed"].values()) for line in env.history]
    first = [line["accepted"] for line in env.history].index(True)
    assert lost[: first + 1] == sorted(lost[: first + 1], reverse=True)


def test_after_three_setbacks_in_a_row_it_gives_up():
    env, stopped = pressed_too_hard(1e6, "retry")
    assert [line["accepted"] for line in env.history] == [False, False, False, True]
    assert stopped == "nothing removed" and not env.accepted.plan
