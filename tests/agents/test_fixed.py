"""Fixed schedules: PFEC's published reductions follow from its rules alone, and rates are what they say."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor

from rlprune.agents import make_controller, run_episode
from rlprune.agents.controllers.fixed import PFEC_TABLES, Polynomial, removed_at
from rlprune.agents.controllers.sensitivity import monotone
from rlprune.channels import trace_channels
from rlprune.cost import CostModel
from rlprune.envs import FilterPruningEnv, Rules
from rlprune.envs.arguments import shared_problem
from rlprune.errors import UserError
from rlprune.models import create_model
from rlprune.problem import PruningProblem
from rlprune.scoring.sensitivity import Sensitivity
from rlprune.spec import ProblemSpec


@pytest.fixture(scope="module")
def problem() -> PruningProblem:
    return shared_problem(ProblemSpec(control_size=200, calibration_size=128))


def env_of(problem: PruningProblem, **rules: Any) -> FilterPruningEnv:
    return FilterPruningEnv.from_problem(problem, Rules(**{"max_rate": 0.95, "tolerance": 1.0, **rules}))


@pytest.mark.parametrize(
    ("table", "model", "macs", "parameters"),
    [
        ("vgg16-a", "vgg16", 34.2, 64.0),
        ("resnet56-a", "resnet56", 10.4, 9.4),
        ("resnet56-b", "resnet56", 27.6, 13.7),
        ("resnet110-a", "resnet110", 15.9, 2.3),
        ("resnet110-b", "resnet110", 38.6, 32.4),
        ("resnet34-a", "torchvision", 15.5, 7.6),
        ("resnet34-b", "torchvision", 24.2, 10.8),
    ],
)
def test_published_reductions_follow_from_the_rules(table: str, model: str, macs: float, parameters: float) -> None:
    if model == "torchvision":
        from torchvision.models import resnet34

        network, image = resnet34(), torch.zeros(1, 3, 224, 224)
    else:
        network, image = create_model(model), torch.zeros(1, 3, 32, 32)
    groups = trace_channels(network, image, check="off")
    rates = PFEC_TABLES.get(table).rates(groups)
    counts = {name: removed_at(groups[name].size, rate) for name, rate in rates.items()}
    cost = CostModel(groups)
    # the paper's counts for ResNet-34 leave out the projections in the shortcuts; option A has none
    projections = [x for x in groups.layers.values() if x.kind == "conv" and max(x.kernel) == 1]
    whole_macs = cost.macs(None) - sum(layer.macs for layer in projections)
    whole_parameters = cost.parameters(None) - sum(math.prod(layer.shape) for layer in projections)
    assert 100 * (cost.macs(None) - cost.macs(counts)) / whole_macs == pytest.approx(macs, abs=0.1)
    gone = cost.parameters(None) - cost.parameters(counts)
    assert 100 * gone / whole_parameters == pytest.approx(parameters, abs=0.1)


def test_a_table_of_another_network_is_refused(problem: PruningProblem) -> None:
    with pytest.raises(UserError, match="this table is for"):
        make_controller("pfec", {"table": "resnet56-b"}).bind(env_of(problem))  # type: ignore[attr-defined]
    with pytest.raises(UserError, match="did you mean 'resnet56-b'"):
        make_controller("pfec", {"table": "resnet56b"})


def test_uniform_removes_its_rate_from_every_group(problem: PruningProblem) -> None:
    env = env_of(problem, one_shot=True)
    plan = run_episode(env, make_controller("uniform", {"rate": 0.5})).info["plan"]
    assert {name: len(units) for name, units in plan.items()} == {
        group.name: removed_at(group.size, 0.5) for group in problem.groups.prunable
    }


def test_uniform_without_a_rate_meets_the_budget_evenly(problem: PruningProblem) -> None:
    env = env_of(problem, one_shot=True, budget=0.5)
    run_episode(env, make_controller("uniform"))
    rates = list(env.history[0]["rates"].values())
    sizes = [group.size for group in problem.groups.prunable]
    assert max(rates) - min(rates) <= 2 / min(sizes)


def test_a_table_goes_by_pattern_and_in_one_round(problem: PruningProblem) -> None:
    first = problem.groups.prunable[0].name
    env = env_of(problem)
    info = run_episode(env, make_controller("table", {"rates": {first: 0.5}})).info
    assert list(info["plan"]) == [first]
    assert info["stopped"] == "nothing removed" and len(env.history) == 2


def test_the_polynomial_ends_at_its_rate_and_stops(problem: PruningProblem) -> None:
    env = env_of(problem)
    rule = Polynomial(rate=0.6, steps=4)
    info = run_episode(env, rule).info
    for group in problem.groups.prunable:
        assert len(info["plan"].get(group.name, [])) == removed_at(group.size, 0.6)
    assert len(env.history) == 5
    assert [rule.rate_at(t) for t in (2, 4, 9)] == pytest.approx([0.6 * (1 - 0.5**3), 0.6, 0.6])


def test_rules_run_through_stable_baselines3s_evaluation(problem: PruningProblem) -> None:
    env = env_of(problem, one_shot=True, budget=0.6, reward="accuracy")
    for rule in (make_controller("uniform"), make_controller("uniform", {"rate": 0.4})):
        if hasattr(rule, "bind"):
            rule.bind(env)
        mean, _ = evaluate_policy(rule, Monitor(env), n_eval_episodes=1)  # type: ignore[arg-type]
        assert mean == pytest.approx(run_episode(env, rule).total_reward)


def test_a_rule_that_was_not_bound_says_so() -> None:
    with pytest.raises(UserError, match="bind"):
        make_controller("uniform", {"rate": 0.1}).predict(np.zeros(3))


def test_sensitivity_spares_what_hurts_and_meets_the_budget(problem: PruningProblem) -> None:
    env = env_of(problem, one_shot=True, budget=0.4, reward="accuracy")
    rule = make_controller("sensitivity", {"limit": 100})
    info = run_episode(env, rule).info
    assert info["final_macs_share"] <= 0.4
    env = env_of(problem, tolerance=0.05)
    assert run_episode(env, make_controller("sensitivity", {"limit": 100})).info["final_drop"] <= 0.05


def test_a_sensitivity_curve_never_falls() -> None:
    found = Sensitivity({}, 0.9, (0.25, 0.5), {"g": [0.8, 0.85]}, {"g": [2, 4]})
    curve = monotone(found, "g", 8)
    assert curve[0] == 0 and curve[2] == pytest.approx(0.1) and curve[8] == 1
    assert (np.diff(curve) >= 0).all()
