"""The exact tests of the min–max controller, and what it does in a real environment."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from rlprune.agents import run_episode
from rlprune.agents.controllers.law import Aim, Standing
from rlprune.agents.controllers.prc import PRC, pressure
from rlprune.agents.controllers.rounds import climb, largest_harmless, loss_of, scaled_back
from rlprune.agents.controllers.seeking import FURTHER, Healing, TrustRegion
from rlprune.agents.runs.recipes import get_recipe
from rlprune.envs import FilterPruningEnv, Rules
from rlprune.errors import UserError
from rlprune.problem import PruningProblem
from rlprune.recovery import make_recovery
from rlprune.spec import ProblemSpec
from rlprune.tasks import Score
from rlprune.training.settings import TrainSettings

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


@pytest.mark.parametrize("option", ["penalty", "delta", "step", "healing"])
def test_constants_must_be_finite_and_not_negative(option):
    with pytest.raises(ValueError, match=option):
        PRC(**{option: -1.0})


@pytest.fixture(scope="module")
def problem():
    return ProblemSpec(calibration_size=128).build()


def pressed_too_hard(problem, delta: float, on_violation: str):
    """A game whose first removal leaves the tolerance; the environment, and why it ended."""
    settings = Rules(tolerance=0.002, max_rate=0.9, on_violation=on_violation)
    env = FilterPruningEnv.from_problem(problem, settings, recovery="none")
    controller = PRC(alpha=0.9, delta=delta, probe_recovery="none", patience=2)
    controller.press = TrainSettings(epochs=0.0)
    return env, run_episode(env, controller).info["stopped"]


def at_the_edge(problem, score: float, **options: float):
    """A controller whose network scores `score`: at the baseline less the tolerance lies the edge."""
    env = FilterPruningEnv.from_problem(problem, Rules(tolerance=0.1, max_rate=0.9), recovery="none")
    env.reset()
    controller = PRC(probe_recovery="none", **options)
    controller.press = TrainSettings(epochs=0.0)
    controller.bind(env)
    env._episode.score = Score(score, 100)
    return controller, env


def test_at_the_edge_the_published_threshold_removes_nothing(problem):
    """T = 0 means recovery training alone, even where a removal would cost nothing."""
    controller, _ = at_the_edge(problem, 0.5, rebisect=False)
    assert not any(controller.plan().values())


@pytest.mark.parametrize(("after", "removes"), [(0.5, True), (0.499, False)])
def test_at_the_edge_a_threshold_found_anew_removes_what_costs_nothing(problem, after, removes, monkeypatch):
    controller, env = at_the_edge(problem, 0.5, rebisect=True)
    monkeypatch.setattr(env.problem.evaluator, "score", lambda *_: Score(after, 100))
    assert any(controller.plan().values()) == removes


def test_the_published_threshold_scales_the_first_one(problem, monkeypatch):
    """W_γ = δ_w · T/ε · W_0: what goes are the filters of U below it."""
    controller, _ = at_the_edge(problem, 1.0, rebisect=False, delta=0.8, alpha=0.9)
    norms = [norm for name, chosen in controller._weakest().items() for norm in controller._norms(name)[list(chosen)]]
    limit = float(np.median(norms))
    monkeypatch.setattr(PRC, "_bisect", lambda *_: limit)
    for slack in (1.0, 0.5, 0.25):
        monkeypatch.setattr(PRC, "_pressure", lambda _, slack=slack: slack)
        assert sum(controller.plan().values()) == sum(norm < 0.8 * slack * limit for norm in norms)


def test_u_is_the_weakest_share_of_every_group(problem):
    controller, env = at_the_edge(problem, 1.0, alpha=0.25)
    for group in env.prunable:
        weakest = controller._weakest()[group.name]
        assert len(weakest) == max(1, int(0.25 * group.size))
        assert set(weakest) == set(np.argsort(env.scores[group.name])[: len(weakest)])


def test_after_a_setback_it_takes_less_and_goes_on(problem):
    alone, _ = pressed_too_hard(problem, 3.0, "stop")
    env, _ = pressed_too_hard(problem, 3.0, "retry")
    assert [line["accepted"] for line in alone.history] == [False]
    assert not alone.accepted.plan and env.accepted.plan
    lost = [sum(line["removed"].values()) for line in env.history]
    first = [line["accepted"] for line in env.history].index(True)
    assert lost[: first + 1] == sorted(lost[: first + 1], reverse=True)


def test_after_three_setbacks_in_a_row_it_gives_up(problem):
    env, stopped = pressed_too_hard(problem, 1e6, "retry")
    assert [line["accepted"] for line in env.history] == [False, False, False, True]
    assert stopped == "nothing removed" and not env.accepted.plan


# The law: how far the slack reaches, against what training is known to heal ----------------------------------------


LIMITS = {"tolerance": 0.01, "drop": 0.0, "share": 1.0, "least": 0.1, "target": None}
BUDGET = {"epochs": 12.0, "left": 12.0, "steps": 1000.0}


def standing(harm=lambda share: 0.02 * (1 - share), **changes):
    return Standing(**{**LIMITS, **BUDGET, "harm": harm, **changes})


def test_what_heals_well_is_cut_deeper():
    """The immediate drop may be T / h."""
    shares = [PRC(healing=heals, step=9.0).aim(standing(lambda s: 0.2 * (1 - s))).share for heals in (0.1, 0.3, 1.0)]
    assert shares == sorted(shares) and shares[0] < 0.6 < shares[-1]


@given(step=st.floats(0.1, 2.0), target=st.none() | st.floats(0.05, 0.9))
def test_an_aim_stays_inside_limits_and_target(step, target):
    aim = PRC(step=step).aim(standing(lambda _: 0.0, target=target))
    assert aim.share >= max(0.1, target or 0.0) - 1e-9 and 0 <= aim.epochs <= 12


def test_a_setback_shrinks_the_step():
    rule = PRC(step=1.0)
    aim = rule.aim(standing(lambda _: 0.0))
    rule.learn(aim, standing(), {"share": aim.share, "accepted": False, "harm": 0.05, "drop": 0.02})
    smaller = rule.aim(standing(lambda _: 0.0))
    assert smaller.share > aim.share


def test_where_the_first_long_training_ends_outside_it_grows_back_no_more_than_it_must():
    region, before = TrustRegion(), standing(tolerance=0.02, drop=0.0176, share=0.8, noise=0.004)
    lost = {"share": 0.43, "accepted": False, "harm": 0.22, "drop": 0.0205, "epochs": 8.4}
    region.learn(Aim(0.43, 8.4, "tolerance"), before, lost)
    aim = region.aim(replace(before, left=3.6))
    assert aim.bound_by == "setback" and aim.epochs == 3.6
    assert math.log(aim.share) == pytest.approx(math.log(0.43) * 0.018 / (FURTHER * 0.0205))
    hair = TrustRegion()
    hair.learn(Aim(0.43, 8.4, "tolerance"), before, {**lost, "drop": 0.0195})
    assert hair.aim(replace(before, left=3.6)).share == pytest.approx(0.43), "what the next training heals"
    again = TrustRegion()
    again.load_state_dict(region.state_dict())
    assert again.aim(replace(before, left=3.6)) == aim
    known = region.state_dict()["healing"]
    region.learn(aim, before, {**lost, "share": aim.share, "accepted": True, "drop": 0.018, "regrown": True})
    assert region.state_dict()["healing"] == known  # a start that was trained before says nothing of healing
    region.learn(Aim(0.43, 8.4, "tolerance"), before, lost)
    assert region.aim(replace(before, left=3.6)).bound_by != "setback"  # beside a network that was trained


def test_a_first_training_ends_early_only_after_a_cut_that_could_have_gone_further():
    untrained = standing(lambda share: 1.0 - share, tolerance=0.02, drop=0.0155, share=0.85)
    reached = TrustRegion().aim(untrained)
    assert reached.bound_by == "tolerance" and reached.enough == 0.25 * 0.02
    assert TrustRegion().aim(replace(untrained, left=8.0)).enough == 0.0155, "something was trained before"
    easy = TrustRegion().aim(replace(untrained, harm=lambda _: 0.0))
    assert easy.bound_by == "window" and easy.enough == 0.0155


def test_a_removal_that_was_not_trained_says_nothing_of_healing():
    rule = PRC()
    aim = rule.aim(standing(lambda s: 0.01 * (1 - s)))
    assert aim.epochs == 0
    line = {"share": aim.share, "accepted": True, "harm": 0.009, "drop": 0.009}
    before = rule.state_dict()["region"]["healing"]
    assert rule.learn(aim, standing(), line) is None
    assert rule.state_dict()["region"]["healing"] == {**before, "weight": 0.01}


def test_training_that_stopped_early_is_no_proof_that_it_heals_less():
    early, late = Healing(0.1), Healing(0.1)
    early.learn(0.1, 0.05, most=0.1)
    late.learn(0.1, 0.05)
    assert early.predicted(1e6) <= 0.101 < 0.4 < late.predicted(1e6)


def test_what_training_left_of_a_drop_stays_as_far_as_it_is_more_than_noise():
    healing, now = Healing(0.1), standing(drop=0.005, left=6.0, tolerance=0.01)
    share = healing.predicted(6.0 * now.steps)
    assert healing.allows(now, 6.0) == (pytest.approx(0.005 / share), share)
    assert healing.allows(replace(now, noise=0.003), 6.0)[0] == pytest.approx(0.008 / share)
    assert healing.allows(replace(now, left=now.epochs), 6.0)[0] == pytest.approx(0.01 / share - 0.005)


def test_the_last_cut_goes_no_further_than_the_drop_so_far_lets_expect():
    trained = standing(share=0.43, drop=0.0085, left=3.0, noise=0.001)
    share = TrustRegion().aim(trained).share
    assert math.log(share) == pytest.approx(math.log(0.43) * math.sqrt(0.0095 / 0.0085))
    assert TrustRegion().aim(replace(trained, epochs=90.0, left=30.0)).share < share, "others may learn from a setback"
    assert TrustRegion().aim(replace(trained, drop=0.0)).share < share, "no drop tells nothing"
    assert 0.42 < TrustRegion().aim(replace(trained, drop=0.0099)).share < 0.43, "at the edge only a little goes"


def test_it_ends_with_the_budget():
    assert PRC().aim(standing(left=0.0)) is None


def test_after_three_setbacks_it_cuts_no_more_and_trains_with_the_rest():
    rule = PRC()
    for _ in range(3):
        aim = rule.aim(standing())
        rule.learn(aim, standing(), {"share": aim.share, "accepted": False, "harm": 0.1, "drop": 0.05})
    last = rule.aim(standing())
    assert last is None or (last.share == 1.0 and last.bound_by == "rest")


def test_the_state_is_all_it_knows():
    rule, other = PRC(), PRC()
    aim = rule.aim(standing())
    rule.learn(aim, standing(), {"share": aim.share, "accepted": True, "harm": 0.05, "drop": 0.004})
    other.load_state_dict(rule.state_dict())
    now = standing(share=aim.share, drop=0.004)
    assert other.aim(now) == rule.aim(now) and other.state_dict() == rule.state_dict()


def test_schedules_near_the_rules_own_are_tried_and_the_best_is_played(problem):
    """At the MACs of the aim, and never worse on control than what the rule itself gives."""
    env = FilterPruningEnv.from_problem(problem, Rules(max_rate=0.8), recovery="none")
    env.reset(seed=0)
    env.aim(0.3)
    probe = make_recovery("lsq+bn-delta")
    start = {group.name: int(0.5 * group.max_removable) for group in env.prunable}
    known = loss_of(env, start, probe)[0]
    found = climb(env, start, probe, 12)
    assert loss_of(env, found, probe)[0] < known and climb(env, start, probe, 12) == found
    assert env.budget.cost(env.budget.before + np.array([*found.values()])) <= env.budget.target
    assert climb(env, start, probe, 0) == start
    env.history.append({"removed": found})
    env.aim(0.5)
    back = scaled_back(env)
    assert all(back[name] <= found[name] for name in found) and back != found  # a network may grow back to it


class Streamed(nn.Module):
    """Two blocks on one residual stream."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(1, 8, 3, padding=1), nn.Linear(8, 3)
        self.into = nn.ModuleList(nn.Conv2d(8, 12, 3, padding=1) for _ in range(2))
        self.back = nn.ModuleList(nn.Conv2d(12, 8, 3, padding=1) for _ in range(2))

    def forward(self, x):
        x = self.stem(x).relu()
        for into, back in zip(self.into, self.back, strict=True):
            x = x + back(into(x).relu())
        return self.head(x.mean((2, 3)))


def test_the_default_prunes_residual_streams_or_leaves_them_whole_as_it_finds_better():
    torch.manual_seed(0)
    data = torch.randn(64, 1, 6, 6), torch.randint(3, (64,))
    live = PruningProblem(Streamed(), control=data, calibration=data)
    env = FilterPruningEnv.from_problem(live, Rules(max_rate=0.9), recovery="none")
    env.reset()
    env.aim(0.6)
    rule = PRC()
    rule.bind(env)
    kinds, (stream,) = rule._candidates(), [group.name for group in env.prunable if "residual" in group.kinds]
    budget = env.budget
    assert kinds["uniform"][stream] > 0 == kinds["uniform inside"][stream]
    assert all(budget.cost(budget.before + np.array([*k.values()])) <= budget.target for k in kinds.values())
    assert rule._candidates("error inside") == {"error inside": kinds["error inside"]}
    assert get_recipe("prc").skip == () and get_recipe("uniform").skip == ("residual",)
    inside = FilterPruningEnv.from_problem(live, Rules(max_rate=0.9, skip=("residual",)), recovery="none")
    inside.reset()
    inside.aim(0.6)
    rule.bind(inside)
    assert not any("inside" in kind for kind in rule._candidates()), "all that there is lies inside"
    assert len(rule._candidates("uniform inside")) == 1


def test_an_unknown_probe_is_refused_before_the_first_round(problem):
    env = FilterPruningEnv.from_problem(problem, Rules(), recovery="none")
    with pytest.raises(UserError, match="lsqq"):
        PRC(probe_recovery="lsqq").bind(env)
