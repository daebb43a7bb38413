"""What a network's outputs say to the loss of a group's filters, and the rule that goes by it."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from rlprune.agents import make_controller, run_episode
from rlprune.channels import PruningPlan
from rlprune.criteria import lowest
from rlprune.criteria.errors import error_curves
from rlprune.envs import FilterPruningEnv, Rules
from rlprune.measuring.norms import batch_statistics
from rlprune.problem import PruningProblem
from rlprune.recovery import make_recovery
from rlprune.scoring.response import RATES, OutputChange, response_curves


class Branches(nn.Module):
    """Two alike branches, of which one hardly reaches the outputs."""

    def __init__(self, faint: float = 1e-2, boxes: bool = False) -> None:
        super().__init__()
        self.loud, self.soft = (
            nn.Sequential(nn.Conv2d(1, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 4, 3)) for _ in range(2)
        )
        self.faint, self.boxes = faint, boxes

    def forward(self, images: torch.Tensor) -> Any:
        found = (self.loud(images) + self.faint * self.soft(images)).mean((2, 3))
        return (found, found.argmax(1)) if self.boxes else found


def problem_of(model: nn.Module, images: int = 64) -> PruningProblem:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(images, 1, 9, 9, generator=generator)
    control = (inputs, torch.randint(4, (images,), generator=generator))
    own = {"evaluate": lambda model: -float(model.loud[0].weight.shape[0])} if getattr(model, "boxes", False) else {}
    return PruningProblem(model, control=control, calibration=(inputs, control[1]), **own)


@pytest.fixture
def problem() -> PruningProblem:
    torch.manual_seed(0)
    return problem_of(Branches())


def curves(problem: PruningProblem) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Scores, errors and responses of the unpruned network."""
    network, names = problem.base(), [group.name for group in problem.groups.prunable]
    scores = problem.scores("l1", network)
    errors = error_curves(network.model, network.groups, names, scores, problem.measured.grams(network, problem))
    return scores, errors, response_curves(OutputChange(problem, network), names, scores, errors)


def game(problem: PruningProblem) -> FilterPruningEnv:
    """One round to six tenths of the MACs."""
    return FilterPruningEnv.from_problem(problem, Rules(one_shot=True, budget=0.6, max_rate=0.9), recovery="lsq")


def test_at_the_rates_that_are_measured_it_is_what_the_outputs_do(problem: PruningProblem) -> None:
    scores, _, found = curves(problem)
    network, inputs = problem.base(), problem.data.calibration.first(64).batches(64)
    ((images, _),) = inputs

    def outputs(model: nn.Module) -> torch.Tensor:
        model = copy.deepcopy(model)
        for module in model.modules():  # by the statistics of these images
            if isinstance(module, nn.BatchNorm2d):
                module.train()
        with torch.no_grad():
            return model(images).double()

    full = outputs(network.model)
    for name, curve in found.items():
        assert curve[0] == 0.0 and (np.diff(curve) >= 0.0).all() and len(curve) == 17
        highest = 0.0  # a response never falls
        for rate in RATES:
            count = round(16 * rate)
            plan = PruningPlan({name: lowest(scores[name], count)})
            after = network.remove(plan, problem.groups)
            make_recovery("lsq").apply(network, after, plan, problem, 0)
            change = (outputs(after.model) - full).square().sum() / (full - full.mean(0)).square().sum()
            highest = max(highest, float(change))
            assert curve[count] == pytest.approx(highest, rel=1e-3)


def test_it_tells_layers_apart_that_errors_take_for_alike(problem: PruningProblem) -> None:
    _, errors, found = curves(problem)
    loud, soft = "loud.0", "soft.0"
    assert errors[soft][8] > 0.3 * errors[loud][8], "their readers lose alike"
    assert found[soft][8] < 0.01 * found[loud][8], "the outputs do not"
    env = game(problem)
    removed = {
        rule: {name: len(gone) for name, gone in run_episode(env, make_controller(rule)).info["plan"].items()}
        for rule in ("error", "response")
    }
    assert removed["response"].get(soft, 0) > removed["error"].get(soft, 0)
    assert removed["response"].get(loud, 0) < removed["response"].get(soft, 0)


def test_the_network_is_left_as_it_was_and_the_images_are_counted(problem: PruningProblem) -> None:
    before = copy.deepcopy(problem.model.state_dict())
    modes = [module.training for module in problem.model.modules()]
    spent = problem.ledger.images_evaluated
    _, _, found = curves(problem)
    assert [module.training for module in problem.model.modules()] == modes
    for name, tensor in problem.model.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    assert problem.ledger.images_evaluated - spent == 64 * (1 + len(RATES) * len(found))


def test_batch_norms_in_their_own_statistics_forget_nothing() -> None:
    norm = nn.BatchNorm2d(3).eval()
    before, images = copy.deepcopy(norm.state_dict()), torch.randn(5, 3, 4, 4) * 3 + 2
    with batch_statistics(norm):
        found = norm(images)
    assert torch.allclose(found.mean((0, 2, 3)), torch.zeros(3), atol=1e-5)
    assert not norm.training and norm.track_running_stats
    assert all(torch.equal(tensor, before[name]) for name, tensor in norm.state_dict().items())


def test_where_outputs_cannot_be_compared_it_is_the_rule_error() -> None:
    torch.manual_seed(0)
    problem = problem_of(Branches(boxes=True))
    assert curves(problem)[2] == {}
    env = FilterPruningEnv.from_problem(problem, Rules(one_shot=True, budget=0.6), recovery="lsq")
    error, response = (run_episode(env, make_controller(rule)).info["plan"] for rule in ("error", "response"))
    assert error == response


def test_what_an_environment_shows_is_of_the_kind_it_names(problem: PruningProblem) -> None:
    rules = Rules(one_shot=True, budget=0.6)
    by_error, by_response = (
        FilterPruningEnv.from_problem(problem, replace(rules, advice=kind), recovery="lsq")
        for kind in ("error", "response")
    )
    first, second = by_error.reset()[0], by_response.reset()[0]
    assert not np.array_equal(first, second)
    assert np.array_equal(by_error.advised_rates("response"), by_response.advised_rates())
    assert not np.array_equal(by_error.advised_rates(), by_response.advised_rates())
    _, errors, found = curves(problem)
    for name, curve in by_response.curves.items():
        assert np.allclose(curve, np.sqrt(errors[name] * found[name]))


def test_where_the_curves_mislead_the_schedule_by_error_is_advised(
    problem: PruningProblem, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = game(problem).advised_rates("response")

    def swapped(*given: Any) -> dict[str, Any]:
        found = response_curves(*given)
        return {"loud.0": found["soft.0"], "soft.0": found["loud.0"]}

    monkeypatch.setattr("rlprune.envs.episode.transitions.response_curves", swapped)
    env = game(problem)
    error = env.advised_rates("error")
    assert np.array_equal(env.advised_rates("response"), error) and not np.array_equal(error, right)


def test_where_errors_mislead_the_schedule_by_the_outputs_alone_is_advised(
    problem: PruningProblem, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = game(problem).advised_rates("response")

    def misled(*given: Any) -> dict[str, Any]:
        return {**(found := error_curves(*given)), "loud.0": 1e-6 * found["loud.0"]}

    monkeypatch.setattr("rlprune.envs.episode.transitions.error_curves", misled)
    env = game(problem)
    advised = dict(zip((group.name for group in env.prunable), env.advised_rates("response"), strict=True))
    error = dict(zip(advised, env.advised_rates("error"), strict=True))
    assert advised["soft.0"] > advised["loud.0"] and error["soft.0"] < error["loud.0"]
    assert np.array_equal(env.advised_rates("outputs"), env.advised_rates("response"))
    assert advised == pytest.approx(dict(zip(advised, right, strict=True)), abs=0.15)
