"""Batch-norm recalibration takes the statistics of what it is shown, and touches nothing else."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from rlprune.measuring.store import bn_calls
from rlprune.problem import PruningProblem
from rlprune.recovery import recalibrate_bn
from rlprune.scoring.pace import Pace


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5), nn.Conv2d(4, 4, 3)).eval()


def test_statistics_are_the_data_s():
    model = network()
    model[1].running_mean.fill_(7.0)
    batches = [torch.randn(8, 3, 9, 9), torch.randn(8, 3, 9, 9) + 1]
    recalibrate_bn(model, [(x,) for x in batches])
    features = [model[0](x).detach() for x in batches]
    mean = torch.stack([f.mean((0, 2, 3)) for f in features]).mean(0)
    variance = torch.stack([f.var((0, 2, 3)) for f in features]).mean(0)
    torch.testing.assert_close(model[1].running_mean, mean)
    torch.testing.assert_close(model[1].running_var, variance)


def test_nothing_else_moves():
    model = network()
    model[1].momentum = 0.03
    model[0].train()
    before = copy.deepcopy(dict(model.named_parameters()))
    recalibrate_bn(model, [(torch.randn(8, 3, 9, 9),)])
    assert all(torch.equal(p, before[n]) for n, p in model.named_parameters())
    assert model[1].momentum == 0.03
    assert model[0].training and not model[1].training and not model[3].training
    assert all(p.grad is None for p in model.parameters())


def test_frozen_norms_and_no_data_leave_the_statistics():
    model = network()
    kept = model[1].running_var.clone()
    recalibrate_bn(model, [])
    assert torch.equal(model[1].running_var, kept)
    frozen = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False))
    recalibrate_bn(frozen, [(torch.randn(2, 3, 5, 5),)])
    assert frozen[1].running_mean is None


@pytest.mark.parametrize(("side", "images"), [(32, 128), (128, 128), (224, 41), (416, 24), (4096, 1)])
def test_large_images_are_few(side, images):
    sizes = []

    class Calls:
        def __init__(self, count=512):
            self.count = count

        def __len__(self):
            return self.count

        def first(self, count):
            return Calls(min(count, self.count))

        def batches(self, size, device):
            whole, rest = divmod(self.count, size)
            sizes.extend([size] * whole + [rest] * (rest > 0))
            return iter(())

    data = SimpleNamespace(split=lambda role: Calls(), input_shape=(3, side, side))
    evaluator = SimpleNamespace(settled=lambda model: Pace())
    list(bn_calls(SimpleNamespace(data=data, evaluator=evaluator, model=None, device="cpu", task=None)))
    assert sum(sizes) == images and max(sizes) - min(sizes) <= 1  # every batch counts the same


def test_loaders_of_large_images_are_known_by_their_first_batch():
    model = nn.Sequential(nn.Conv2d(3, 4, 3, stride=8), nn.ReLU(), nn.Conv2d(4, 2, 3), nn.Flatten(), nn.LazyLinear(2))
    batches = [(torch.zeros(5, 3, 224, 224), torch.zeros(5, dtype=torch.long)) for _ in range(20)]
    model(batches[0][0])
    problem = PruningProblem(model, control=batches, calibration=batches)
    assert problem.data.input_shape == (3, 224, 224)
    assert sum(len(inputs) for (inputs,) in bn_calls(problem)) == 40  # of 41: the last would be a batch of one
