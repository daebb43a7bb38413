"""FPSL removes exactly the share of the pool, wherever the weakest filters are."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlprune.agents.controllers.fpsl import threshold
from rlprune.criteria import CriterionContext, get_criterion

CONVS = ["convs.0", "convs.1", "convs.2"]


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=300, unique=True), st.floats(0, 1))
def test_exactly_the_share_lies_at_or_below_the_threshold(pool: list[float], share: float) -> None:
    number = int(share * len(pool) + 1e-9)
    limit = threshold(pool, number)
    assert sum(score <= limit for score in pool) == number


def test_a_share_below_one_filter_takes_nothing() -> None:
    """The formula without the guard would take sorted(pool)[-1], the greatest, and with it everything."""
    assert threshold([1.0, 2.0, 3.0], 0) == -np.inf


def test_a_round_takes_the_lowest_of_all_layers(playing: Any) -> None:
    rule, env = playing("fpsl", target=None, share=0.25)
    pool = sorted((score, name) for name in CONVS for score in env.scores[name])
    number = int(0.25 * len(pool))
    expected = {name: sum(layer == name for _, layer in pool[:number]) for name in CONVS}
    counts = rule.plan()
    assert {name: counts[name] for name in CONVS} == expected
    assert sum(counts.values()) == number and "hidden" not in counts


def test_layers_at_their_floor_leave_the_pool(playing: Any) -> None:
    rule, env = playing("fpsl", target=None, share=0.2)
    env.rank({"convs.0": np.arange(8) - 100.0})  # all of the lowest scores in one layer: 8 - 2 can go
    assert rule.plan() == {"convs.0": 6, "convs.1": 0, "convs.2": 0}
    env.step(env.action_for(6))
    while env.visit:
        env.step(env.action_for(0))
    assert "convs.0" not in rule.plan(), "it has two filters left"
    assert sum(rule.plan().values()) == int(0.2 * 22)


def test_the_choice_does_not_change_when_filters_and_readers_are_scaled(problem: Any) -> None:
    network = problem.base()
    criterion = get_criterion("fpsl")
    before = criterion.scores(CriterionContext(network.model, network.groups))
    with torch.no_grad():
        for j, a in enumerate(np.random.default_rng(0).uniform(0.1, 10, 12)):
            network.model.convs[1].weight[j] *= a
            network.model.convs[2].weight[:, j] /= a
    after = criterion.scores(CriterionContext(network.model, network.groups))
    np.testing.assert_allclose(after["convs.1"], before["convs.1"], rtol=1e-5)
