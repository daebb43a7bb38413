"""The budget's window, its map and its repair, on random networks of the form every cost has."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlprune.channels import trace_channels
from rlprune.cost import CostModel
from rlprune.envs.episode.budget import BilinearCost, Budget
from rlprune.envs.episode.window import Window, choices
from rlprune.errors import UserError
from rlprune.models import create_model


def chain_cost(sizes: list[int], rng: np.random.Generator) -> BilinearCost:
    """MACs of a plain chain of convolutions: layer t reads group t-1 and writes group t; the ends are fixed."""
    n = len(sizes)
    a = np.array([*sizes, 10])
    b = np.array([3, *sizes])
    A, B = np.zeros((2, n + 1, n), dtype=np.int64)
    A[np.arange(n), np.arange(n)] = 1
    B[np.arange(1, n + 1), np.arange(n)] = 1
    return BilinearCost(rng.integers(1, 50, n + 1), a, b, A, B)


@st.composite
def budgets(draw: st.DrawFn) -> Budget:
    sizes = draw(st.lists(st.integers(2, 40), min_size=1, max_size=6))
    cost = chain_cost(sizes, np.random.default_rng(draw(st.integers(0, 99))))
    before = np.array([draw(st.integers(0, size // 3)) for size in sizes])
    left = np.array(sizes) - before
    most = [draw(st.integers(0, int(size) - 1)) for size in left]
    round_to = draw(st.sampled_from([1, 1, 4]))
    options = tuple(choices(int(size), m, round_to) for size, m in zip(left, most, strict=True))
    budget = Budget(cost, before, left, options, None)
    target = int(budget.least_cost + draw(st.floats(0, 1.1)) * (cost(before) - budget.least_cost))
    return Budget(cost, before, left, options, target)


@given(budgets(), st.lists(st.floats(-1, 1), min_size=6, max_size=6))
@settings(max_examples=300, deadline=None)
def test_any_actions_meet_the_budget_to_within_one_filter(budget: Budget, actions: list[float]) -> None:
    counts = np.zeros(len(budget.sizes), dtype=np.int64)
    for group, action in zip(range(len(counts)), actions, strict=False):
        counts[group] = budget.window(group, counts).count(action)
    assert budget.target is not None
    assert budget.cost(budget.before + counts) <= budget.target
    pruned = np.flatnonzero(counts)
    if pruned.size:
        last = pruned[-1]
        counts[last] = budget.choices[last][np.searchsorted(budget.choices[last], counts[last]) - 1]
        assert budget.cost(budget.before + counts) > budget.target


@given(budgets(), st.lists(st.floats(0, 1), min_size=6, max_size=6))
@settings(max_examples=300, deadline=None)
def test_a_repaired_vector_is_tight_and_feasible_step_by_step(budget: Budget, rates: list[float]) -> None:
    counts = budget.repair(np.array(rates[: len(budget.sizes)]))
    assert budget.target is not None
    assert budget.cost(budget.before + counts) <= budget.target
    for group, count in enumerate(counts):
        window = budget.window(group, counts)
        assert window.count(window.action(int(count))) == count
        if count:
            less = counts.copy()
            less[group] = budget.choices[group][np.searchsorted(budget.choices[group], count) - 1]
            assert budget.cost(budget.before + less) > budget.target


@given(budgets())
@settings(max_examples=200, deadline=None)
def test_a_target_that_is_not_due_is_not_overshot(budget: Budget) -> None:
    soft = Budget(budget.cost, budget.before, budget.sizes, budget.choices, budget.target, must_meet=False)
    counts = np.zeros(len(soft.sizes), dtype=np.int64)
    for group in range(len(counts)):
        window = soft.window(group, counts)
        assert window.lo == 0
        counts[group] = window.count(1.0)
    for group in np.flatnonzero(counts):
        less = counts.copy()
        less[group] = budget.choices[group][np.searchsorted(budget.choices[group], counts[group]) - 1]
        less[group + 1 :] = 0
        assert soft.target is not None
        assert soft.cost(soft.before + less) > soft.target


def windows() -> st.SearchStrategy[Window]:
    def build(size: int, lo: int, span: int, place: float) -> Window:
        options = np.arange(min(lo, size - 1), min(lo + span, size - 1) + 1)
        return Window(size, options, place * (len(options) - 1))

    return st.builds(build, st.integers(2, 2048), st.integers(0, 2047), st.integers(0, 2047), st.floats(0, 1))


@given(windows())
@settings(max_examples=200, deadline=None)
def test_the_map_is_centred_monotone_onto_and_inverted_in_float32(window: Window) -> None:
    assert window.count(-1.0) == window.lo
    assert window.count(1.0) == window.hi
    assert window.count(0.0) == window.choices[int(window.centre + 0.5)]
    counts = [window.count(float(action)) for action in np.linspace(-1, 1, 301)]
    assert counts == sorted(counts)
    for count in window.choices[:: max(1, len(window.choices) // 40)]:
        action = np.float32(window.action(int(count)))
        assert -1 <= action <= 1
        assert window.count(float(action)) == count


def test_zero_actions_are_the_uniform_schedule() -> None:
    sizes = [32, 64, 64, 128, 128, 256]
    cost = chain_cost(sizes, np.random.default_rng(0))
    n = len(sizes)
    options = tuple(choices(size, int(0.9 * size)) for size in sizes)
    budget = Budget(cost, np.zeros(n, dtype=np.int64), np.array(sizes), options, cost([0] * n) // 2)
    rate = budget.uniform_rate(0, np.zeros(n, dtype=np.int64))
    assert cost.many(rate * np.array(sizes, dtype=float)[None])[0] == pytest.approx(budget.target, rel=1e-3)
    counts = np.zeros(n, dtype=np.int64)
    for group in range(n):
        counts[group] = budget.window(group, counts).count(0.0)
    assert np.abs(counts / sizes - rate).max() < 1 / 32
    assert np.abs(budget.repair(np.full(n, 0.3)) / sizes - rate).max() < 1 / 32


def test_cost_along_one_group_is_the_cost() -> None:
    cost = chain_cost([5, 7, 9], np.random.default_rng(1))
    counts = np.array([1, 2, 3])
    expected = [cost([1, k, 3]) for k in range(7)]
    assert cost.along(1, counts, np.arange(7)).tolist() == expected
    shares = cost.shares(np.array([4, 5, 6]), counts)
    assert shares[1] == pytest.approx(1 - cost([1, 7, 3]) / cost([1, 2, 3]))


def test_what_cannot_be_met_says_what_can() -> None:
    cost = chain_cost([8, 8], np.random.default_rng(0))
    budget = Budget(cost, np.zeros(2, dtype=np.int64), np.array([8, 8]), (choices(8, 2), choices(8, 2)), 1)
    with pytest.raises(UserError, match="raise the budget or max_rate"):
        budget.check(cost([0, 0]))
    with pytest.raises(UserError, match="window allows 0 to 2"):
        Window(8, choices(8, 2), 1.0).action(5)


@pytest.mark.parametrize("name", ["lenet5", "vgg16", "resnet20", "mobilenet_v1", "mobilenet_v2"])
def test_costs_are_those_of_the_cost_model(name: str) -> None:
    groups = trace_channels(create_model(name), torch.zeros(1, 1 if name == "lenet5" else 3, 32, 32), check="off")
    names = [group.name for group in groups.prunable]
    macs, parameters, model = (
        BilinearCost.of_macs(groups, names),
        BilinearCost.of_parameters(groups, names),
        CostModel(groups),
    )
    generator = np.random.default_rng(0)
    for _ in range(20):
        counts = np.array([generator.integers(0, groups[n].max_removable + 1) for n in names])
        named = dict(zip(names, counts.tolist(), strict=True))
        assert macs(counts) == model.macs(named)
        assert parameters(counts) == model.parameters(named)
        assert macs.many(counts[None].astype(float))[0] == pytest.approx(macs(counts))
