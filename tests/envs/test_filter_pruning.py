"""What an episode promises: the tolerance, the budget, determinism, and going on after a stop."""

from __future__ import annotations

import copy
import json
import math
from typing import Any

import numpy as np
import pytest
import torch

from rlprune.drops import score_drop
from rlprune.envs import FilterPruningEnv, Rules
from rlprune.envs.arguments import shared_problem
from rlprune.envs.episode.transitions import Transitions
from rlprune.errors import UserError
from rlprune.problem import PruningProblem
from rlprune.spec import ProblemSpec
from rlprune.tasks import Score

SMALL = {"control_size": 200, "calibration_size": 128}


@pytest.fixture(scope="module")
def problem() -> PruningProblem:
    return shared_problem(ProblemSpec(**SMALL))


def make(problem: PruningProblem, **rules: Any) -> FilterPruningEnv:
    return FilterPruningEnv.from_problem(problem, Rules(**rules))


def one_shot(problem: PruningProblem, **rules: Any) -> FilterPruningEnv:
    return make(problem, **{"one_shot": True, "reward": "accuracy", "budget": 0.5, "max_rate": 0.9, **rules})


def play(env: FilterPruningEnv, seed: int = 0, low: float = -1.0, high: float = 1.0) -> list[Any]:
    generator = np.random.default_rng(seed)
    observation, info = env.reset(seed=seed)
    seen: list[Any] = [observation.tolist(), info]
    over = False
    while not over:
        observation, reward, terminated, truncated, info = env.step(generator.uniform(low, high, 1).astype(np.float32))
        assert env.observation_space.contains(observation)
        assert isinstance(reward, float) and isinstance(terminated, bool) and isinstance(truncated, bool)
        assert reward == pytest.approx(sum(info["reward_terms"].values()))
        json.dumps(info, allow_nan=False)
        seen += [observation.tolist(), reward, terminated, truncated, info]
        over = terminated or truncated
    return seen


def test_the_network_handed_back_is_inside_the_tolerance(problem: PruningProblem) -> None:
    for tolerance in (0.0, 0.02, 0.1):
        env = make(problem, tolerance=tolerance, max_rate=0.4)
        info = play(env, seed=1)[-1]
        score = problem.evaluator.score(env.accepted.model, "control")
        assert score_drop(problem.baseline.value, score.value) <= tolerance
        assert score.value == info["final_score"]
        assert env.accepted.plan.to_json() == info["plan"]
        assert problem.cost.macs(env.accepted.plan.counts) == info["final_macs"]
        assert sum(p.numel() for p in env.accepted.model.parameters()) == info["final_parameters"]
        if info["stopped"] == "tolerance":
            assert not env.history[-1]["accepted"]
            assert env.history[-1]["drop"] > tolerance


@pytest.mark.parametrize(("allowed", "accepted"), [(0.02, True), (0.0199, False)])
def test_a_drop_of_exactly_the_tolerance_keeps_it(
    problem: PruningProblem, allowed: float, accepted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In floating point 0.9196 - 0.8996 is more than 0.02."""
    monkeypatch.setitem(problem.__dict__, "baseline", Score(0.9196, 5000))
    monkeypatch.setattr(Transitions, "score", lambda *_: Score(0.8996, 5000))
    env = make(problem, tolerance=allowed, max_rate=0.4)
    env.reset()
    while not env.history:
        env.step(np.array([1.0], dtype=np.float32))
    assert env.history[0]["drop"] == 0.02 and env.history[0]["accepted"] == accepted


def test_retrying_goes_back_halves_the_rate_and_goes_on(problem: PruningProblem) -> None:
    env = make(problem, tolerance=0.01, max_rate=0.6, on_violation="retry", rounds=6)
    env.reset()
    over = False
    while not over:
        cap, removed = env.rate_cap, env.accepted.plan
        violated = len([line for line in env.history if not line["accepted"]])
        assert cap == 0.6 / 2**violated
        _, _, terminated, truncated, _ = env.step(np.array([0.9], dtype=np.float32))
        over = terminated or truncated
        if env.visit == 0 and not over and not env.history[-1]["accepted"]:
            assert env.network.plan == removed
    assert all(max(line["rates"].values()) <= 0.6 for line in env.history)


def test_a_budget_is_met_to_within_one_filter_by_any_actions(problem: PruningProblem) -> None:
    whole = problem.cost.macs(None)
    for seed, budget in enumerate((0.3, 0.5, 0.8)):
        env = one_shot(problem, budget=budget)
        info = play(env, seed)[-1]
        assert info["final_macs"] <= budget * whole
        counts = {name: len(units) for name, units in info["plan"].items()}
        last = [name for name in env.scope.names if name in counts][-1]
        counts[last] -= 1
        assert problem.cost.macs(counts) > budget * whole


def test_the_executed_rate_is_the_action_and_action_for_is_its_inverse(problem: PruningProblem) -> None:
    env = one_shot(problem)
    env.reset()
    for _ in env.prunable:
        low, high = env.window
        size = env.group.size
        for wanted in range(round(low * size), round(high * size) + 1):
            trial = copy.copy(env)
            trial._episode = copy.deepcopy(env._episode, {id(env._episode.transitions): env._episode.transitions})
            assert trial.step(trial.action_for(wanted))[4]["rate"] == wanted / size
        env.step(np.zeros(1, dtype=np.float32))


def test_equal_seeds_give_equal_trajectories(problem: PruningProblem) -> None:
    for criterion in ("l1", "random"):
        one, two = (make(problem, tolerance=0.05, criterion=criterion) for _ in range(2))
        assert play(one, 3) == play(two, 3)
        assert play(one, 3) == play(two, 3)  # and a reset leaves nothing behind


def test_reset_restores_the_base_network_bit_for_bit_and_the_problem_is_untouched(problem: PruningProblem) -> None:
    before = {name: tensor.clone() for name, tensor in problem.model.state_dict().items()}
    env = make(problem, tolerance=0.5, rounds=2)
    play(env)
    env.reset()
    for state in (env.network.model.state_dict(), problem.model.state_dict()):
        assert all(torch.equal(state[name], tensor) for name, tensor in before.items())


def test_an_episode_goes_on_bit_equal_from_every_round(problem: PruningProblem) -> None:
    from rlprune.training.settings import TrainSettings

    rules = {"tolerance": 0.05, "max_rate": 0.3, "rounds": 4}
    actions = np.random.default_rng(0).uniform(-1, 0, 100).astype(np.float32)

    def go_on(env: FilterPruningEnv, taken: int, saved: list[Any]) -> list[Any]:
        seen: list[Any] = []
        over = False
        while not over:
            if env.visit == 0:
                if env.round == 1:
                    saved.append((taken, env.state_dict()))
                    env.train(TrainSettings(epochs=0.2, lr=0.01))
                else:
                    saved.append((taken, env.state_dict()))
            observation, reward, terminated, truncated, info = env.step(actions[taken : taken + 1])
            seen.append((observation.tolist(), reward, info))
            taken, over = taken + 1, terminated or truncated
        return seen

    saved: list[Any] = []
    env = make(problem, **rules)
    env.reset()
    whole = go_on(env, 0, saved)
    assert len(saved) > 1
    for taken, state in saved:
        again = make(problem, **rules)
        again.load_state_dict(state)
        assert go_on(again, taken, []) == whole[taken:]
        assert again.history == env.history
        for mine, theirs in zip(
            again.accepted.model.state_dict().values(), env.accepted.model.state_dict().values(), strict=True
        ):
            assert torch.equal(mine, theirs)


def test_training_leaves_the_accepted_network_alone_and_is_accounted_for(problem: PruningProblem) -> None:
    from rlprune.training.settings import TrainSettings

    env = make(problem)
    env.reset()
    before, seen = copy.deepcopy(env.accepted.model.state_dict()), problem.ledger.images_trained
    env.train(TrainSettings(epochs=0.1, lr=0.01))
    assert problem.ledger.images_trained > seen
    assert all(torch.equal(before[name], tensor) for name, tensor in env.accepted.model.state_dict().items())
    assert any(not torch.equal(before[name], tensor) for name, tensor in env.network.model.state_dict().items())
    env.step(np.zeros(1, dtype=np.float32))
    with pytest.raises(UserError, match="only before the first"):
        env.train(TrainSettings(epochs=0.1))


def test_removing_nothing_is_how_a_controller_stops(problem: PruningProblem) -> None:
    env = make(problem)
    env.reset()
    while True:
        _, reward, terminated, truncated, info = env.step(np.array([-1.0], dtype=np.float32))
        if terminated or truncated:
            break
    assert (terminated, truncated, info["stopped"]) == (True, False, "nothing removed")
    assert not info["is_success"] and info["plan"] == {} and reward == 0.0


def test_only_the_limit_of_rounds_truncates(problem: PruningProblem) -> None:
    env = make(problem, tolerance=1.0, rounds=2, max_rate=0.2)
    assert play(env, low=0.5)[-2] is True
    assert env.history[-1]["round"] == 2
    env = one_shot(problem)
    _, terminated, truncated, info = play(env)[-4:]
    assert (terminated, truncated, info["round"]) == (True, False, 1)


def test_the_dense_term_adds_up_to_nothing(problem: PruningProblem) -> None:
    plain, dense = one_shot(problem), one_shot(problem, dense=True)
    rewards = [sum(x for x in play(env, 5) if type(x) is float) for env in (plain, dense)]
    assert rewards[0] == pytest.approx(rewards[1])


def test_the_gains_of_the_default_reward_add_up_to_the_compression(problem: PruningProblem) -> None:
    env = make(problem, tolerance=1.0, max_rate=0.2, rounds=3)
    info = play(env, low=0.0)[-1]
    gains = sum(line["reward_terms"]["macs"] for line in env.history)
    assert gains == pytest.approx(math.log(problem.cost.macs(None) / info["final_macs"]))


def test_the_uniform_schedule_gains_nothing_over_itself(problem: PruningProblem) -> None:
    env = one_shot(problem, reward="gain")
    env.reset()
    over = False
    while not over:
        _, reward, over, _, _ = env.step(np.zeros(1, dtype=np.float32))
    assert reward == 0.0


def test_a_goal_can_be_set_for_one_episode(problem: PruningProblem) -> None:
    env = one_shot(problem)
    env.reset(options={"budget": 0.7, "tolerance": 0.2})
    over = False
    while not over:
        _, _, over, _, info = env.step(np.zeros(1, dtype=np.float32))
    assert 0.6 < info["final_macs_share"] <= 0.7
    env.reset()
    assert env.tolerance == 0.01
    with pytest.raises(UserError, match="did you mean 'budget'"):
        env.reset(options={"buget": 0.7})


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"tolerance": -0.1}, "tolerance is -0.1"),
        ({"tolerance": math.inf}, "tolerance is inf"),
        ({"skip": ["residul"]}, "did you mean 'residual'"),
        ({"skip": "residual"}, "give a list"),
        ({"tolerance": math.nan}, "tolerance is nan"),
        ({"max_rate": -0.1}, "max_rate is -0.1"),
        ({"max_rate": 0.001}, "removes no filter"),
        ({"budget": 0.0}, "budget is 0.0"),
        ({"budget": 0.01, "one_shot": True}, "raise the budget or max_rate"),
        ({"rounds": 0}, "rounds is 0"),
        ({"reward": "acuracy"}, "did you mean 'accuracy'"),
        ({"criterion": "l11"}, "did you mean"),
        ({"on_violation": "stp"}, "did you mean 'stop'"),
    ],
)
def test_settings_that_cannot_be_are_refused(problem: PruningProblem, rules: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make(problem, **rules)


def test_actions_that_cannot_be_are_refused(problem: PruningProblem) -> None:
    env = one_shot(problem)
    env.reset()
    with pytest.raises(UserError, match="the action is nan"):
        env.step(np.array([np.nan], dtype=np.float32))
    play(env)
    with pytest.raises(UserError, match="call reset"):
        env.step(np.zeros(1, dtype=np.float32))


def test_pictures(problem: PruningProblem) -> None:
    text = FilterPruningEnv.from_problem(problem, render_mode="ansi").render()
    assert text.count("\n") == len(problem.groups.prunable)
    image = FilterPruningEnv.from_problem(problem, render_mode="rgb_array").render()
    assert image.shape == (360, 640, 3) and image.dtype == np.uint8 and image.std() > 0
