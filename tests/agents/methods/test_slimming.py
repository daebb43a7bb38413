"""Slimming: the penalty is what it says, and one percentile cuts all layers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from rlprune.agents import make_controller
from rlprune.agents.controllers.slimming import ScaleL1
from rlprune.channels import PruningPlan
from rlprune.cost import CostModel
from rlprune.envs import FilterPruningEnv, Rules
from rlprune.errors import UserError
from rlprune.problem import PruningProblem

CONVS = ("convs.0", "convs.1", "convs.2")


def scales(model: Any) -> dict[str, Any]:
    return {f"convs.{i}": norm.weight.detach().abs().double().numpy() for i, norm in enumerate(model.norms)}


def test_the_penalty_is_the_sum_of_absolute_scales(problem: Any) -> None:
    penalty = ScaleL1(problem.model, problem.groups, 1e-2)
    expected = 1e-2 * sum(values.sum() for values in scales(problem.model).values())
    assert penalty(problem.model).item() == pytest.approx(expected)
    gradient = torch.autograd.grad(penalty(problem.model), problem.model.norms[0].weight)[0]
    assert torch.equal(gradient, 1e-2 * problem.model.norms[0].weight.sign())


def test_the_percentile_cuts_across_layers(playing: Any, problem: Any) -> None:
    rule, _ = playing("slimming", target=None, percentile=0.4)
    values = scales(problem.model)
    limit = np.sort(np.concatenate(list(values.values())))[int(0.4 * 30) - 1]
    assert rule.plan() == {name: int((v <= limit).sum()) for name, v in values.items() if (v <= limit).any()}


def test_a_target_takes_the_fewest_channels_that_meet_it(playing: Any, problem: Any) -> None:
    rule, env = playing("slimming", target=0.6)
    counts, cost = rule.plan(), CostModel(problem.groups)
    target = 0.6 * problem.cost.macs()
    assert cost.macs(counts) <= target
    last = max(counts, key=lambda name: np.sort(env.scores[name])[counts[name] - 1])
    assert cost.macs({**counts, last: counts[last] - 1}) > target
    assert PruningPlan({name: range(count) for name, count in counts.items()})


def test_without_a_norm_it_says_so(problem: Any) -> None:
    bare = nn.Sequential(
        nn.Conv2d(1, 6, 5, stride=3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 10)
    )
    env = FilterPruningEnv.from_problem(PruningProblem(bare, problem.data), Rules(criterion="bn_scale"))
    rule: Any = make_controller("slimming")
    rule.bind(env)
    with pytest.raises(UserError, match="needs batch norms"):
        rule.plan()
