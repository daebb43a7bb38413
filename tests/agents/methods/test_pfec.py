"""PFEC: rates by stage from a scan, independent and greedy ranking."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from rlprune.agents import make_controller
from rlprune.agents.controllers.pfec import greedy_scores, stage_rates
from rlprune.channels import trace_channels
from rlprune.criteria import get_criterion, lowest, plan_from_counts
from rlprune.errors import UserError
from rlprune.models import create_model


def test_greedy_ranking_leaves_out_the_kernels_of_pruned_maps(problem: Any) -> None:
    """Brute force over the weights: sums over the inputs that are still there."""
    counts = {"convs.0": 3, "convs.1": 4, "convs.2": 2}
    network = problem.base()
    found = greedy_scores(network, problem.groups, get_criterion("l1"), counts)
    kept = [0]
    for name in counts:
        weight = network.model.get_submodule(name).weight.detach().double().abs().numpy()
        scores = weight[:, kept].sum((1, 2, 3))
        np.testing.assert_allclose(found[name], scores)
        gone = lowest(scores, counts[name])
        kept = [j for j in range(len(scores)) if j not in gone]


def test_greedy_and_independent_differ_only_behind_the_first_layer(playing: Any) -> None:
    plans = []
    for greedy in (False, True):
        rule, env = playing("pfec", allowed=1.0, greedy=greedy)
        while True:
            action, _ = rule.predict(env.observation)
            *_, info = env.step(action)
            if "plan" in info:
                break
        plans.append(info["plan"])
    assert plans[0]["convs.0"] == plans[1]["convs.0"]
    assert {name: len(units) for name, units in plans[0].items()} == {n: len(u) for n, u in plans[1].items()}
    assert plans[0] != plans[1]


def test_stages_share_the_median_and_sensitive_layers_stay_whole() -> None:
    groups = trace_channels(create_model("resnet20"), torch.zeros(1, 3, 32, 32), check="off")
    layers = [group for group in groups.prunable if "residual" not in group.kinds]
    rates = {group.name: 0.1 * (1 + place % 3) for place, group in enumerate(layers)}
    found = stage_rates({**rates, layers[0].name: 0.05}, layers, groups)
    assert found[layers[0].name] == 0.0
    assert len({round(found[group.name], 6) for group in layers[3:6]}) == 1


def test_rates_are_the_largest_that_the_scan_allows(playing: Any, problem: Any) -> None:
    rule, env = playing("pfec", target=None, allowed=0.02, by_stage=False)
    counts = rule.plan()
    base = env.baseline.value
    for name in ("convs.0", "convs.1", "convs.2"):
        size = problem.groups[name].size
        most = 0
        for rate in np.arange(0.1, 0.95, 0.1):
            count = problem.groups[name].allowed(int(rate * size + 1e-9))
            plan = plan_from_counts(env.network.groups, env.scores, {name: count})
            model = env.network.remove(plan, problem.groups).model
            if base - problem.evaluator.score(model, "control").value > 0.02:
                break
            most = count
        assert counts[name] == most
    assert counts["hidden"] == 0


def test_a_table_is_a_preset(problem: Any) -> None:
    with pytest.raises(UserError, match="did you mean 'resnet56-b'"):
        make_controller("pfec", {"table": "resnet56b"})
