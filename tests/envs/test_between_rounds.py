"""Between rounds the goal can change, a round can be given an aim, and what may go is known before it is decided."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlprune.envs import FilterPruningEnv, Rules
from rlprune.envs.arguments import shared_problem
from rlprune.envs.episode.tolerance import Tolerance
from rlprune.envs.toy import ToyPruningEnv
from rlprune.errors import UserError
from rlprune.problem import PruningProblem
from rlprune.recovery import make_recovery
from rlprune.spec import ProblemSpec
from rlprune.tasks import Score

SMALL = {"control_size": 200, "calibration_size": 128}


@pytest.fixture(scope="module")
def problem() -> PruningProblem:
    return shared_problem(ProblemSpec(**SMALL))


def make(problem: PruningProblem, recovery: Any = "lsq+bn-delta", **rules: Any) -> FilterPruningEnv:
    env = FilterPruningEnv.from_problem(problem, Rules(**{"tolerance": 1.0, **rules}), recovery=recovery)
    env.reset()
    return env


def play_round(env: FilterPruningEnv, counts: dict[str, int] | None = None, action: float = 0.0) -> dict[str, Any]:
    """A round of these counts, or of one action."""
    for group in env.prunable:
        taken = np.full(1, action, np.float32) if counts is None else env.action_for(counts.get(group.name, 0))
        info = env.step(taken)[4]
    return info


def test_an_aim_is_met_to_within_one_filter_and_ends_nothing(problem: PruningProblem) -> None:
    env = make(problem, max_rate=0.9)
    whole = problem.cost.macs(None)
    for share in (0.8, 0.61, 0.4):
        env.aim(share)
        info = play_round(env)
        assert info["macs"] <= share * whole
        last = [name for name, count in env.history[-1]["removed"].items() if count][-1]
        counts = {**env.network.plan.counts}
        counts[last] -= 1
        assert problem.cost.macs(counts) > share * whole
        assert "stopped" not in info and env.budget.target is None
    assert play_round(env)["macs"] < 0.4 * whole


def test_an_aim_that_cannot_be_met_changes_nothing(problem: PruningProblem) -> None:
    env = make(problem, max_rate=0.3)
    budget = env.budget
    with pytest.raises(UserError, match=r"aim 0\.100 cannot be met.*raise the aim or max_rate"):
        env.aim(0.1)
    with pytest.raises(UserError, match=r"aim is 1\.5"):
        env.aim(1.5)
    assert env.budget is budget
    env.aim(0.7)
    env.aim(None)
    assert env.budget.target is None
    env.step(np.zeros(1, np.float32))
    with pytest.raises(UserError, match="only before the first"):
        env.aim(0.7)


def test_the_goal_changes_between_rounds_and_revives_an_episode(problem: PruningProblem) -> None:
    env = make(problem, tolerance=0.5, budget=0.8, max_rate=0.3)
    while "stopped" not in (info := play_round(env, action=1.0)):
        pass
    assert info["stopped"] == "budget"
    env.set_goal(budget=0.5, max_rate=0.4)
    assert env.rate_cap == 0.4 and env.visit == 0
    while "stopped" not in (info := play_round(env, action=1.0)):
        pass
    assert info["stopped"] == "budget" and info["final_macs_share"] <= 0.5
    kept = env.accepted.plan
    env.set_goal(budget=0.3)
    with pytest.raises(UserError, match="tolerance is -1"):
        env.set_goal(tolerance=-1.0)
    assert env.tolerance == 0.5 and env.accepted.plan == kept
    if env.drop > 0:
        with pytest.raises(UserError, match="accepted network dropped"):
            env.set_goal(tolerance=env.drop / 2)
    env.reset()
    assert env.budget.target == int(0.8 * problem.cost.macs(None)) and env.rate_cap == 0.3


def test_the_goal_of_a_round_that_is_over_is_the_next_episodes(problem: PruningProblem) -> None:
    env = make(problem, one_shot=True, budget=0.5, max_rate=0.9)
    env.set_goal(budget=0.7)
    assert 0.6 < play_round(env)["final_macs_share"] <= 0.7
    with pytest.raises(UserError, match="reset"):
        env.set_goal(budget=0.6)


def test_training_before_the_aim_is_not_forgotten(problem: PruningProblem) -> None:
    from rlprune.training.settings import TrainSettings

    env = make(problem)
    env.train(TrainSettings(epochs=0.05))
    env.aim(1.0)
    assert "stopped" not in play_round(env, {}), "a round that trained does not end the episode"


def test_going_back_keeps_the_cap_and_ends_with_the_same_failure(problem: PruningProblem) -> None:
    env = make(problem, "none", tolerance=0.0, max_rate=0.9, on_violation="back")
    deep = {group.name: 10**6 for group in env.prunable}
    assert "stopped" not in play_round(env, deep)
    assert env.rate_cap == 0.9 and not env.network.plan and not env.history[0]["accepted"]
    half = {name: count[-1] // 2 for name, count in env.choices.items()}
    assert "stopped" not in play_round(env, half), "another removal is another trial"
    assert play_round(env, deep)["stopped"] == "tolerance"
    assert not env.accepted.plan


def test_rounds_with_aims_and_failures_go_on_bit_equal(problem: PruningProblem) -> None:
    rules = {"recovery": "none", "tolerance": 0.05, "max_rate": 0.7, "on_violation": "back"}

    def go_on(env: FilterPruningEnv, start: int) -> list[Any]:
        seen = []
        for number in range(start, 4):
            saved.append(env.state_dict())
            env.aim((0.95, 0.2, 0.93, 0.9)[number])
            saved.append(env.state_dict())
            for _ in env.prunable:
                observation, reward, *_, info = env.step(np.zeros(1, np.float32))
                seen.append((observation.tolist(), reward, info))
        return seen

    saved: list[dict[str, Any]] = []
    env = make(problem, **rules)
    whole = go_on(env, 0)
    assert not all(line["accepted"] for line in env.history)
    for number, state in enumerate(list(saved)):
        again = make(problem, **rules)
        observation = again.load_state_dict(state)
        assert again.state_dict()["aim"] == state["aim"]
        np.testing.assert_array_equal(observation, again.observation)
        assert go_on(again, number // 2) == whole[len(env.prunable) * (number // 2) :]
        assert again.history == env.history
        mine, theirs = again.accepted.model.state_dict(), env.accepted.model.state_dict()
        assert all(torch.equal(mine[name], tensor) for name, tensor in theirs.items())


@given(st.lists(st.integers(0, 80), min_size=8, max_size=8), st.sampled_from([None, 0.4, 0.8]), st.integers(0, 4))
@settings(max_examples=60, deadline=None)
def test_what_is_feasible_is_what_is_executed(wanted: list[int], share: float | None, visited: int) -> None:
    env = ToyPruningEnv(budget=share or 1.0)
    env.rules = env._episode.rules = Rules(one_shot=False, max_rate=0.9, tolerance=1.0, budget=share)
    env.reset()
    for _ in range(visited):
        env.step(np.full(1, 0.3, np.float32))
    before = [int(count) for count in env._episode.current.counts[:visited]]
    asked = dict(zip(env.choices, wanted, strict=True))
    feasible = env.feasible(asked)
    assert list(feasible.values())[:visited] == before
    for name in list(env.choices)[visited:]:
        assert feasible[name] in env.choices[name]
        if share is None:
            assert feasible[name] == min(asked[name], env.choices[name][-1])
        env.step(env.action_for(asked[name]))
    assert env.history[0]["removed"] == feasible


def test_choices_keep_to_the_rules_and_names_are_checked() -> None:
    env = FilterPruningEnv(round_to=4, min_channels=4, max_rate=0.5, **SMALL)
    env.reset()
    for group in env.prunable:
        counts = env.choices[group.name]
        assert counts[0] == 0 and (np.diff(counts) > 0).all() and counts[-1] <= 0.5 * group.size
        assert ((group.size - counts[1:]) % 4 == 0).all() and group.size - counts[-1] >= 4
    with pytest.raises(UserError, match="unknown group"):
        env.feasible({"nothing": 3})


def test_a_preview_may_take_a_cheaper_recovery(problem: PruningProblem) -> None:
    env = make(problem)
    counts = {group.name: group.size // 2 for group in env.prunable}
    whole, bare = env.preview(counts)[0], env.preview(counts, make_recovery("none"))[0]
    assert whole.value > bare.value
    before = problem.ledger.evaluations
    assert env.preview(np.array(list(counts.values())))[0].value == whole.value
    play_round(env, counts)
    assert env.history[0]["score"] == whole.value and problem.ledger.evaluations == before


def test_a_recovery_that_changes_is_told_by_its_key(problem: PruningProblem) -> None:
    class Changing:
        inner: Any = make_recovery("none")

        @property
        def key(self) -> str:
            return str(self.inner.key)

        def apply(self, *arguments: Any) -> None:
            self.inner.apply(*arguments)

    changing = Changing()
    env = make(problem, changing)
    counts = {group.name: group.size // 2 for group in env.prunable}
    bare = env.preview(counts)[0].value
    changing.inner = make_recovery("lsq+bn-delta")
    assert env.preview(counts)[0].value > bare


def test_a_network_that_was_trained_elsewhere_is_gone_on_with(problem: PruningProblem) -> None:
    env = make(problem)
    network = env.network.copy()
    with torch.no_grad():
        next(iter(network.model.parameters())).zero_()
    env.adopt(network)
    assert env.score.value == problem.evaluator.score(network.model, "control").value
    assert env.accepted is not env.network
    with pytest.raises(UserError, match="lost other filters"):
        play_round(env)
        env.adopt(problem.base())


@pytest.mark.parametrize(("baseline", "inside", "outside"), [(32.5, 32.1, 31.9), (-4.0, -4.4, -4.6), (0.2, -0.3, -0.4)])
def test_scores_of_any_range_keep_a_tolerance_in_their_units(baseline: float, inside: float, outside: float) -> None:
    keeper = Tolerance(Score(baseline, 10, metric="any"), 0.5, "whole")
    assert keeper.inside(inside) and not keeper.inside(outside) and not keeper.inside(float("nan"))
    assert keeper.accept("one", Score(inside, 10)) and not keeper.accept("other", Score(outside, 10))
    assert (keeper.accepted, keeper.score.value) == ("one", inside)


@pytest.mark.parametrize("scale", [(1.0, 30.0), (10.0, 0.0), (-1.0, -1.0)])
def test_an_episode_plays_with_scores_of_any_range(
    problem: PruningProblem, scale: tuple[float, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    factor, offset = abs(scale[0]), scale[1]

    def rescaled(model: Any, role: str = "control", limit: int | None = None) -> Score:
        score = original(model, role, limit)
        return Score(factor * score.value + offset, score.n, metric="own")

    original = problem.evaluator.score
    monkeypatch.setattr(problem.evaluator, "score", rescaled)
    monkeypatch.delitem(problem.__dict__, "baseline", raising=False)
    env = make(problem, tolerance=0.02 * factor, max_rate=0.4)
    over = False
    while not over:
        observation, _, over, _, info = env.step(np.full(1, 0.5, np.float32))
        assert env.observation_space.contains(observation)
    assert info["final_drop"] <= 0.02 * factor and info["is_success"] == bool(info["plan"])
    monkeypatch.delitem(problem.__dict__, "baseline", raising=False)
