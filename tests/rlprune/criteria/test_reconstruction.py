"""The greedy ranking by least-squares error, against solving every least-squares problem there is."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from rlprune.channels import trace_channels
from rlprune.criteria import CriterionContext, get_criterion
from rlprune.criteria.errors import error_curves
from rlprune.measuring.unfolding import Unfolding, sampled_rows
from rlprune.recovery import GramStore


class Two(nn.Module):
    """A producer with two readers, one of which also reads another layer."""

    def __init__(self):
        super().__init__()
        self.make, self.other = nn.Conv2d(2, 5, 3, padding=1), nn.Conv2d(2, 3, 3, padding=1)
        self.first, self.second = nn.Conv2d(5, 4, 3), nn.Conv2d(8, 2, 1)

    def forward(self, x):
        a = self.make(x).relu()
        return self.first(a), self.second(torch.cat([a, self.other(x).relu()], 1))


class Scaled(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Conv2d(2, 6, 3), nn.ReLU(), nn.Conv2d(6, 4, 3, bias=False), nn.BatchNorm2d(4))
        nn.init.uniform_(self[3].weight, 0.1, 3.0)
        nn.init.uniform_(self[3].running_var, 0.2, 2.0)


NETWORKS = {
    "conv": lambda: nn.Sequential(nn.Conv2d(2, 6, 3), nn.ReLU(), nn.Conv2d(6, 4, 3)),
    "strided, grouped": lambda: nn.Sequential(nn.Conv2d(2, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3, stride=2, groups=2)),
    "transposed": lambda: nn.Sequential(nn.Conv2d(2, 6, 3), nn.ReLU(), nn.ConvTranspose2d(6, 3, 2, stride=2)),
    "linear after flatten": lambda: nn.Sequential(
        nn.Conv2d(2, 5, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(45, 3)
    ),
    "two readers": Two,
    "norm": Scaled,
}


def brute_force(model, inputs, group, layers, weigh):
    """Greedy elimination by solving every least-squares problem: cumulative relative errors."""
    read = {}
    handles = [
        model.get_submodule(name).register_forward_pre_hook(lambda _, a, n=name: read.update({n: a[0]}))
        for name in layers
    ]
    with torch.no_grad():
        model(inputs)
    for handle in handles:
        handle.remove()
    problems = []
    for name in layers:
        layer = model.get_submodule(name)
        unfolding = Unfolding.of(layer)
        rows = sampled_rows(layer, read[name], 10**9, torch.Generator()).double().numpy()
        matrix = unfolding.matrix(layer.weight.detach()).double().numpy()
        slot = next(s for s in group.slots if s.tensor == f"{name}.weight" and s.role == "in")
        for block in range(len(matrix)):
            outputs = rows[block] @ matrix[block].T
            if weigh and isinstance(model, Scaled):
                outputs = outputs * (model[3].weight / (model[3].running_var + model[3].eps).sqrt()).detach().numpy()
            columns = [[c * unfolding.taps + t for c in unit for t in range(unfolding.taps)] for unit in slot.index]
            problems.append((rows[block], outputs, columns))

    def error(gone):
        total = 0.0
        for rows, outputs, columns in problems:
            dropped = [c for unit in gone for c in columns[unit]]
            kept = np.setdiff1d(np.arange(rows.shape[1]), dropped)
            design = np.c_[rows[:, kept], np.ones(len(rows))]
            rest = outputs - design @ np.linalg.lstsq(design, outputs, rcond=None)[0]
            total += (rest**2).sum() / ((outputs - outputs.mean(0)) ** 2).sum()
        return total / len(problems)

    gone, scores = [], np.zeros(group.size)
    for _ in range(group.max_removable):
        costs = {u: error([*gone, u]) for u in range(group.size) if u not in gone}
        unit = min(costs, key=costs.get)
        gone.append(unit)
        scores[unit] = costs[unit]
    for unit in range(group.size):
        if unit not in gone:
            scores[unit] = error([*gone, unit])
    return scores


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("weigh", [True, False])
def test_against_brute_force(name, weigh):
    torch.manual_seed(0)
    model = NETWORKS[name]().eval()
    inputs = torch.randn(60, 2, 8, 8)
    groups = trace_channels(model, inputs[:1])
    grams = GramStore.collect(model, groups, [(inputs,)], positions_per_image=10**6, rows_per_column=1e9)
    context = CriterionContext(model=model, groups=groups, grams=grams)
    group = groups["make" if name == "two readers" else "0"]
    found = get_criterion("reconstruction", {"ridge": 1e-9, "weigh": weigh}).scores(context)[group.name]
    wanted = brute_force(model, inputs, group, group.consumers, weigh)
    assert found == pytest.approx(wanted, rel=2e-3, abs=1e-5)
    assert (found >= 0).all() and (found <= 1 + 1e-6).all()


@pytest.mark.parametrize("name", NETWORKS)
def test_one_factorisation_gives_the_error_of_every_count(name):
    torch.manual_seed(0)
    model = NETWORKS[name]().eval()
    inputs = torch.randn(60, 2, 8, 8)
    groups = trace_channels(model, inputs[:1])
    grams = GramStore.collect(model, groups, [(inputs,)], positions_per_image=10**6, rows_per_column=1e9)
    group = groups["make" if name == "two readers" else "0"]
    # The greedy scores, which are checked by brute force above, are the errors of their own order.
    context = CriterionContext(model=model, groups=groups, grams=grams)
    scores = get_criterion("reconstruction", {"ridge": 1e-9}).scores(context)
    curve = error_curves(model, groups, [group.name], scores, grams)[group.name]
    assert curve[0] == 0.0 and curve.shape == (group.size + 1,) and (np.diff(curve) >= 0).all()
    most = group.max_removable
    assert curve[1 : most + 1] == pytest.approx(np.sort(scores[group.name])[:most], rel=2e-3, abs=1e-5)
    if name != "two readers":
        assert curve[-1] == pytest.approx(1.0)
    assert error_curves(model, groups, [group.name], scores, GramStore({})) == {}


def test_what_others_make_up_for_goes_first_and_only_once():
    torch.manual_seed(1)
    model = nn.Sequential(nn.Conv2d(2, 6, 3), nn.ReLU(), nn.Conv2d(6, 4, 3)).eval()
    with torch.no_grad():  # filter 4 repeats filter 1, and is the largest of all
        model[0].weight[4], model[0].bias[4] = 5 * model[0].weight[1], 5 * model[0].bias[1]
    inputs = torch.randn(100, 2, 8, 8)
    groups = trace_channels(model, inputs[:1])
    grams = GramStore.collect(model, groups, [(inputs,)])
    context = CriterionContext(model=model, groups=groups, grams=grams)
    scores = get_criterion("reconstruction", {"ridge": 1e-6}).scores(context)["0"]
    first, twin = (1, 4) if scores[1] < scores[4] else (4, 1)
    assert int(scores.argmin()) == first and scores[first] < 1e-3 < scores[twin]


def test_dead_filters_and_few_images_are_survived():
    torch.manual_seed(2)
    model = nn.Sequential(nn.Conv2d(2, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(216, 4)).eval()
    with torch.no_grad():
        model[0].weight[[0, 3]] = 0
        model[0].bias[[0, 3]] = -1
    inputs = torch.randn(5, 2, 8, 8)
    groups = trace_channels(model, inputs[:1])
    grams = GramStore.collect(model, groups, [(inputs,)])
    scores = get_criterion("reconstruction").scores(CriterionContext(model=model, groups=groups, grams=grams))["0"]
    assert np.isfinite(scores).all() and set(np.argsort(scores)[:2]) == {0, 3}
    curve = error_curves(model, groups, ["0"], {"0": scores}, grams)["0"]
    assert curve[2] == pytest.approx(0.0, abs=1e-4) and np.isfinite(curve).all()
    assert len(set(scores)) == 6


def test_a_group_read_by_functions_alone_is_ranked_by_l1():
    class Functional(nn.Module):
        def __init__(self):
            super().__init__()
            self.make = nn.Conv2d(2, 5, 3)
            self.weight = nn.Parameter(torch.randn(3, 5, 1, 1))

        def forward(self, x):
            return nn.functional.conv2d(self.make(x).relu(), self.weight)

    model = Functional()
    inputs = torch.randn(4, 2, 8, 8)
    groups = trace_channels(model, inputs[:1])
    grams = GramStore.collect(model, groups, [(inputs,)])
    assert not grams
    context = CriterionContext(model=model, groups=groups, grams=grams)
    assert (
        get_criterion("reconstruction").scores(context)["make"] == get_criterion("l1").scores(context)["make"]
    ).all()


def filters(units, seed=0):
    """A layer that reads `units` correlated channels: a context for the criterion, and the group's name."""
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Conv2d(3, units // 2, 3), nn.ReLU(), nn.Conv2d(units // 2, units, 1), nn.ReLU(), nn.Conv2d(units, 8, 3)
    )
    inputs = torch.randn(40, 3, 12, 12)
    groups = trace_channels(model, inputs[:1])
    grams = GramStore.collect(model, groups, [(inputs,)], positions_per_image=64)
    return CriterionContext(model, groups, grams=grams)


def test_updating_the_inverse_in_blocks_changes_nothing(monkeypatch):
    context = filters(48)
    found = get_criterion("reconstruction").scores(context)["2"]
    monkeypatch.setattr("rlprune.criteria.reconstruction.BLOCK", 1)
    np.testing.assert_allclose(get_criterion("reconstruction").scores(context)["2"], found, rtol=1e-9)


def test_single_precision_ranks_as_double_precision_does(monkeypatch):
    context = filters(64)
    exact = get_criterion("reconstruction").scores(context)["2"]
    monkeypatch.setattr("rlprune.measuring.grams.WIDE", 0)
    found = get_criterion("reconstruction").scores(filters(64))["2"]
    assert not np.array_equal(found, exact)  # it did compute in another precision
    np.testing.assert_allclose(found, exact, rtol=1e-3, atol=1e-6)
    for count in (16, 32, 48):
        assert len({*np.argsort(found)[:count]} & {*np.argsort(exact)[:count]}) >= count - 1
