"""Least squares finds the best weights there are, from Gram matrices alone."""

from __future__ import annotations

import copy
import importlib
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from rlprune.channels import PruningPlan, remove_channels, trace_channels
from rlprune.criteria import errors
from rlprune.errors import UserError
from rlprune.measuring import grams as grams_module
from rlprune.measuring import pairs
from rlprune.measuring.room import Room
from rlprune.measuring.solving import cholesky, ridge_factor, solve_lower
from rlprune.measuring.unfolding import sampled_rows
from rlprune.problem import PruningProblem
from rlprune.recovery import GramStore, least_squares

solving = importlib.import_module("rlprune.recovery.least_squares")


def collect(model, inputs, **options):
    groups = trace_channels(model, inputs[:1])
    options = {"positions_per_image": 10**6, "rows_per_column": 10**9, **options}
    return groups, GramStore.collect(model, groups, [(inputs,)], **options)


def refitted(model, groups, grams, removed, **options):
    plan = PruningPlan(removed)
    pruned = remove_channels(model, groups, plan)
    least_squares(pruned, model, groups, plan, grams, **options)
    return pruned


class Concatenating(nn.Module):
    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(3, 4, 3, padding=1)
        self.reader = nn.Conv2d(10, 5, 3, padding=1)

    def forward(self, x):
        return self.reader(torch.relu(torch.cat([self.left(x), self.right(x)], 1)))


def chain(reader, channels=8):
    return nn.Sequential(nn.Conv2d(3, channels, 3, padding=1), nn.ReLU(), *reader)


READERS = {
    "conv": [nn.Conv2d(8, 5, 3, padding=1)],
    "strided, dilated": [nn.Conv2d(8, 5, 3, stride=2, padding=2, dilation=2)],
    "without bias": [nn.Conv2d(8, 5, 3, bias=False)],
    "before a norm": [nn.Conv2d(8, 5, 3, bias=False), nn.BatchNorm2d(5)],
    "grouped": [nn.Conv2d(8, 6, 3, padding=1, groups=2)],
    "transposed": [nn.ConvTranspose2d(8, 5, 2, stride=2)],
    "transposed, overlapping": [nn.ConvTranspose2d(8, 5, 4, stride=2, padding=1)],
    "transposed, grouped": [nn.ConvTranspose2d(8, 6, 2, stride=2, groups=2)],
    "linear after flatten": [nn.Flatten(), nn.Linear(8 * 36, 4)],
}


@pytest.mark.parametrize("reader", READERS)
def test_a_filter_that_others_make_up_for_costs_nothing(reader):
    torch.manual_seed(0)
    model = copy.deepcopy(chain(READERS[reader])).eval()
    inputs = torch.randn(64, 3, 6, 6)
    grouped = trace_channels(model, inputs[:1])["0"].size == 4  # unit j is then filters j and 4 + j
    twins = [(0, 2), (1, 3), (4, 6), (5, 7)] if grouped else [(0, 4), (1, 5), (2, 6), (3, 7)]
    with torch.no_grad():  # one of two repeats the other at twice its length; ReLU keeps the proportion
        for one, other in twins:
            model[0].weight[other] = 2 * model[0].weight[one]
            model[0].bias[other] = 2 * model[0].bias[one]
    groups, grams = collect(model, inputs)
    gone = [1, 2] if grouped else [0, 5]
    pruned = refitted(model, groups, grams, {"0": gone}, ridge=1e-7)
    torch.testing.assert_close(pruned(inputs), model(inputs), atol=2e-3, rtol=1e-3)


def test_it_is_the_least_squares_solution():
    torch.manual_seed(1)
    model = chain([nn.Conv2d(8, 5, 3, padding=1)]).eval()
    inputs = torch.randn(32, 3, 7, 7)
    groups, grams = collect(model, inputs)
    pruned = refitted(model, groups, grams, {"0": [2, 3, 6]}, ridge=0.0)
    with torch.no_grad():
        features = pruned[1](pruned[0](inputs))
        rows = sampled_rows(pruned[2], features, 10**6, torch.Generator())[0].double().numpy()
        wanted = model(inputs).double().permute(0, 2, 3, 1).reshape(-1, 5).numpy()
    best = np.linalg.lstsq(np.c_[rows, np.ones(len(rows))], wanted, rcond=None)[0]
    np.testing.assert_allclose(pruned[2].weight.detach().reshape(5, -1).numpy(), best[:-1].T, atol=2e-4)
    np.testing.assert_allclose(pruned[2].bias.detach().numpy(), best[-1], atol=2e-4)


def test_without_bias_or_norm_it_is_the_solution_without_a_constant():
    torch.manual_seed(1)
    model = chain([nn.Conv2d(8, 5, 1, bias=False)]).eval()
    inputs = torch.randn(32, 3, 7, 7)
    groups, grams = collect(model, inputs)
    pruned = refitted(model, groups, grams, {"0": [2, 3, 6]}, ridge=0.0)
    with torch.no_grad():
        rows = pruned[1](pruned[0](inputs)).double().permute(0, 2, 3, 1).reshape(-1, 5).numpy()
        wanted = model(inputs).double().permute(0, 2, 3, 1).reshape(-1, 5).numpy()
    best = np.linalg.lstsq(rows, wanted, rcond=None)[0]
    np.testing.assert_allclose(pruned[2].weight.detach().reshape(5, -1).numpy(), best.T, atol=2e-4)


def test_the_mean_goes_into_the_norm_behind():
    torch.manual_seed(2)
    model = chain([nn.Conv2d(8, 5, 3, bias=False), nn.BatchNorm2d(5)]).eval()
    inputs = torch.randn(64, 3, 6, 6) + 0.5
    groups, grams = collect(model, inputs)
    pruned = refitted(model, groups, grams, {"0": [0, 1, 2]})
    torch.testing.assert_close(pruned(inputs).mean((0, 2, 3)), model(inputs).mean((0, 2, 3)), atol=1e-4, rtol=1e-3)


def test_inputs_from_several_groups_are_fitted_together():
    torch.manual_seed(3)
    model = Concatenating().eval()
    with torch.no_grad():  # right.0 repeats left.1, and left.0 repeats right.3
        model.right.weight[0], model.right.bias[0] = 3 * model.left.weight[1], 3 * model.left.bias[1]
        model.left.weight[0], model.left.bias[0] = 0.5 * model.right.weight[3], 0.5 * model.right.bias[3]
    inputs = torch.randn(32, 3, 6, 6)
    groups, grams = collect(model, inputs)
    pruned = refitted(model, groups, grams, {"left": [0], "right": [0]}, ridge=1e-7)
    torch.testing.assert_close(pruned(inputs), model(inputs), atol=2e-3, rtol=1e-3)


def test_only_kept_outputs_are_fitted():
    torch.manual_seed(4)
    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 7, 3), nn.ReLU(), nn.Conv2d(7, 4, 3)).eval()
    inputs = torch.randn(16, 3, 12, 12)
    groups, grams = collect(model, inputs)
    both = refitted(model, groups, grams, {"0": [1, 4], "2": [0, 5]})
    first = refitted(model, groups, grams, {"0": [1, 4]})
    torch.testing.assert_close(both[2].weight, first[2].weight[[1, 2, 3, 4, 6]])


def test_a_strong_ridge_leaves_the_weights():
    torch.manual_seed(5)
    model = chain([nn.Conv2d(8, 5, 3)]).eval()
    inputs = torch.randn(8, 3, 8, 8)
    groups, grams = collect(model, inputs)
    plan = PruningPlan({"0": [0, 1]})
    pruned = refitted(model, groups, grams, plan.removed, ridge=1e9)
    torch.testing.assert_close(pruned[2].weight, remove_channels(model, groups, plan)[2].weight)


def test_fewer_images_than_columns_and_dead_filters_are_survived():
    torch.manual_seed(6)
    model = chain([nn.Flatten(), nn.Linear(8 * 36, 4)]).eval()
    with torch.no_grad():
        model[0].weight[2:] = 0
        model[0].bias[2:] = -1
    inputs = torch.randn(3, 3, 6, 6)
    groups, grams = collect(model, inputs)
    for removed in ([0, 1], [3], [0, 2, 3, 4, 5]):
        pruned = refitted(model, groups, grams, {"0": removed}, ridge=0.0)
        assert all(bool(torch.isfinite(p).all()) for p in pruned.parameters())


def test_collecting_leaves_the_network_as_it_was():
    torch.manual_seed(7)
    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(inplace=True), nn.Conv2d(6, 4, 3)).train()
    before = copy.deepcopy(model.state_dict())
    inputs = torch.randn(4, 3, 8, 8)
    groups, grams = collect(model, inputs)
    assert list(grams) == ["3"]
    assert model.training and all(module.training for module in model.modules())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])
    again = GramStore.collect(model, groups, [(inputs,)], positions_per_image=5, seed=3)
    twice = GramStore.collect(model, groups, [(inputs,)], positions_per_image=5, seed=3)
    assert torch.equal(again["3"].gram, twice["3"].gram)


def test_collecting_stops_when_there_are_rows_enough():
    model = chain([nn.Conv2d(8, 5, 3)]).eval()
    groups = trace_channels(model, torch.randn(1, 3, 16, 16))
    drawn = []

    def calls():
        for i in range(100):
            drawn.append(i)
            yield (torch.randn(32, 3, 16, 16),)

    grams = GramStore.collect(model, groups, calls(), positions_per_image=16, rows_per_column=1)
    assert len(drawn) == 4 and grams["2"].rows == 2048


def test_no_data_and_nan_are_said():
    model = chain([nn.Conv2d(8, 5, 3)]).eval()
    groups = trace_channels(model, torch.randn(1, 3, 8, 8))
    with pytest.raises(UserError, match="saw no calibration data"):
        GramStore.collect(model, groups, [])
    with pytest.raises(UserError, match="NaN"):
        GramStore.collect(model, groups, [(torch.full((2, 3, 8, 8), float("nan")),)])


@pytest.mark.parametrize("matrix", [torch.full((3, 3), float("nan")), torch.diag(torch.tensor([1e300, -1e300, 1.0]))])
def test_what_cannot_be_factored_ends(matrix):
    with pytest.raises(UserError, match="cannot be factored"):
        ridge_factor(matrix.double(), 1e-3)


def test_weights_beyond_all_bounds_are_said():
    model = chain([nn.Conv2d(8, 5, 3), nn.ReLU(), nn.Conv2d(5, 4, 1)]).eval()
    with torch.no_grad():
        model[0].weight[0, 0, 0, 0] = 1e20
    groups = trace_channels(model, torch.randn(1, 3, 8, 8))
    with pytest.raises(UserError, match="beyond all bounds"):
        GramStore.collect(model, groups, [(torch.randn(4, 3, 8, 8),)])


@torch.no_grad()
@pytest.mark.parametrize("count", [1, 4, 7])
def test_the_factor_of_error_curves_gives_the_same_solution(count, monkeypatch):
    torch.manual_seed(8)
    model = chain([nn.MaxPool2d(2), nn.Conv2d(12, 5, 3, padding=1)], channels=12).eval()
    inputs = torch.randn(64, 3, 12, 12)
    groups, grams = collect(model, inputs)
    scores = {"0": np.random.default_rng(0).permutation(12).astype(float)}
    removed = {"0": np.argsort(scores["0"])[:count].tolist()}
    usual = refitted(model, groups, grams, removed)
    monkeypatch.setattr(errors, "WIDE", 0)
    errors.error_curves(model, groups, ["0"], scores, grams)
    used = []
    monkeypatch.setattr(solving, "_from_factor", lambda *a, f=solving._from_factor: used.append(1) or f(*a))
    again = refitted(model, groups, grams, removed)
    assert used
    spread = float((usual(inputs) - usual(inputs).mean((0, 2, 3), keepdim=True)).norm())
    assert float((again(inputs) - usual(inputs)).norm()) < 1e-5 * spread
    other = {"0": [*removed["0"][1:], int(np.argmax(scores["0"]))]}  # not the lowest: the factor is of no use
    used.clear()
    refitted(model, groups, grams, other)
    assert not used


def test_factoring_by_blocks():
    torch.manual_seed(9)
    matrix = torch.randn(1300, 1300, dtype=torch.float64)
    matrix = matrix @ matrix.T / 1300 + torch.eye(1300)
    torch.testing.assert_close(cholesky(matrix.clone()), torch.linalg.cholesky(matrix))
    indefinite = matrix - 2 * torch.eye(1300)
    untouched = indefinite.clone()
    assert cholesky(indefinite) is None
    torch.testing.assert_close(indefinite, untouched)


def test_gram_matrices_by_panels():
    torch.manual_seed(10)
    layer = nn.Linear(700, 3)
    rows = torch.randn(40, 700)
    total = grams_module._Sum(layer, 16, 8.0, Room())
    total.add(rows[:25], torch.Generator())
    total.add(rows[25:], torch.Generator())
    torch.testing.assert_close(total.finish("", None).gram[0], (rows.T @ rows / 40).double(), atol=1e-6, rtol=1e-5)


FEW_POSITIONS = {
    "3x3 on 4x4": (nn.Conv2d(6, 4, 3, padding=1), (6, 4, 4)),
    "strided": (nn.Conv2d(6, 4, 3, stride=2, padding=1), (6, 7, 7)),
    "dilated, mirrored": (nn.Conv2d(6, 4, 3, padding=2, dilation=2, padding_mode="reflect"), (6, 4, 4)),
    "uneven, same": (nn.Conv2d(6, 4, (2, 3), padding="same"), (6, 4, 4)),
    "signals": (nn.Conv1d(6, 4, 5, padding=2), (6, 9)),
    "volumes": (nn.Conv3d(6, 4, 3, padding=1), (6, 2, 2, 2)),
}


@pytest.mark.parametrize("case", FEW_POSITIONS)
def test_pairs_of_positions_give_the_gram_matrix_of_unfolded_rows(case, monkeypatch):
    layer, shape = FEW_POSITIONS[case]
    torch.manual_seed(11)
    monkeypatch.setattr(pairs, "FOLDED", 40)
    batches = [torch.randn(n, *shape) + 0.5 for n in (30, 30, 7)]
    larger = torch.randn(5, shape[0], *(2 * size for size in shape[1:]))  # of another size: by rows
    total = grams_module._Sum(layer, 16, 8.0, Room())
    wanted, mean, count = 0.0, 0.0, 0
    for number, batch in enumerate([*batches, larger]):
        total.add(batch, torch.Generator().manual_seed(number))
        rows = sampled_rows(layer, batch, 16, torch.Generator().manual_seed(number))[0].double()
        wanted, mean, count = wanted + rows.T @ rows, mean + rows.sum(0), count + len(rows)
    assert total.pairs is not None
    found = total.finish("", None)
    assert found.rows == count
    torch.testing.assert_close(found.gram[0], wanted / count, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(found.mean[0], mean / count, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("transposed", [False, True])
def test_triangular_systems_by_strips(transposed):
    torch.manual_seed(12)
    whole = torch.randn(1400, 1400, dtype=torch.float64).tril_() / 100 + torch.eye(1400)
    lower, right = whole[:1200, :1200], torch.randn(7, 1200, dtype=torch.float64)
    x = solve_lower(lower, right, transposed=transposed)
    torch.testing.assert_close(x @ (lower.T if transposed else lower), right)


@torch.no_grad()
@pytest.mark.parametrize("side", [3, 12])  # by pairs of positions, and by rows
def test_what_exceeds_the_memory_lies_in_files(side, monkeypatch):
    torch.manual_seed(13)
    monkeypatch.setattr(errors, "WIDE", 0)
    model = chain([nn.Conv2d(8, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 5, 3, padding=1)]).eval()
    inputs, scores = torch.randn(64, 3, side, side), {"0": np.arange(8.0), "2": np.arange(6.0)}
    found = []
    for memory in (float("inf"), 72 * 72 * 8):
        groups, grams = collect(model, inputs, memory=memory, positions_per_image=16)
        errors.error_curves(model, groups, list(scores), scores, grams)
        found.append((refitted(model, groups, grams, {"0": [0, 1], "2": [0]})(inputs), grams))
    assert torch.equal(found[0][0], found[1][0])
    assert found[0][1].room.filed == 0 and found[1][1].room.filed == 8 * (6 * 72 + 5 * 54 + 72 * 72 + 2 * 54 * 54)
    assert found[1][1].bytes == found[0][1].bytes - found[1][1].room.filed


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc")
def test_what_rests_in_files_is_not_memory_and_comes_back():
    def resident():
        status = Path("/proc/self/statm").read_text().split()
        return int(status[1]) * os.sysconf("SC_PAGE_SIZE")

    room = Room(0)
    tensor = room.keep(torch.ones(2**22))
    before = resident()
    room.rest()
    assert before - resident() > 2**23
    assert float(tensor.sum()) == 2**22


def test_files_that_do_not_fit_are_said(monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(UserError, match="set TMPDIR to a folder with more room"):
        Room(0).zeros((4, 4), torch.float32, torch.device("cpu"))


def test_gram_matrices_are_collected_once_however_little_memory_there_is():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 6, 3), nn.Flatten()).eval()
    batches = [(torch.randn(8, 3, 9, 9), torch.zeros(8, dtype=torch.long))]
    problem = PruningProblem(model, control=batches, calibration=batches)
    problem.measured.memory = 8 * 72 * 72
    network = problem.base()
    first = problem.measured.grams(network, problem)
    problem.measured.norms(network, problem)
    assert first.room.filed and problem.measured.grams(network, problem) is first
