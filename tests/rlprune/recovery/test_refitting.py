"""The refit fits what the pruned network really computes."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from rlprune.channels import PruningPlan, remove_channels, trace_channels
from rlprune.errors import UserError
from rlprune.recovery import GramStore, least_squares, recalibrate_bn, refit

EVERYWHERE = 10**6


def deep(norm):
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 12, 3, padding=1), nn.ReLU()]
    for _ in range(3):
        layers += [
            nn.Conv2d(12, 12, 3, padding=1, bias=not norm),
            nn.BatchNorm2d(12) if norm else nn.Identity(),
            nn.ReLU(),
        ]
    model = nn.Sequential(*layers, nn.ConvTranspose2d(12, 10, 2, stride=2), nn.ReLU(), nn.Conv2d(10, 4, 1)).eval()
    for module in model:
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
    inputs = torch.randn(48, 3, 10, 10)
    recalibrate_bn(model, [(inputs,)])
    return model, inputs


def pruned(model, inputs, removed, ridge=1e-3):
    groups, plan = trace_channels(model, inputs[:1]), PruningPlan(removed)
    network = remove_channels(model, groups, plan)
    grams = GramStore.collect(model, groups, [(inputs,)], positions_per_image=EVERYWHERE, rows_per_column=1e9)
    least_squares(network, model, groups, plan, grams, ridge=ridge)
    return network, groups, plan


@pytest.mark.parametrize("norm", [True, False])
def test_it_comes_closer_where_much_went(norm):
    model, inputs = deep(norm)
    network, groups, plan = pruned(model, inputs, {name: range(6) for name in ("0", "2", "5", "8")})
    kept = copy.deepcopy(model.state_dict())

    def distance(network):
        recalibrate_bn(network, [(inputs,)])
        with torch.no_grad():
            return (network(inputs) - model(inputs)).square().mean().item()

    before = distance(copy.deepcopy(network))
    refit(network, model, groups, plan, [(inputs[:24],), (inputs[24:],)], positions_per_image=EVERYWHERE, sweeps=2)
    assert distance(network) < 0.9 * before
    assert all(torch.equal(v, kept[k]) for k, v in model.state_dict().items())
    assert not any(m._forward_pre_hooks for m in [*model.modules(), *network.modules()])


def test_behind_a_single_cut_it_is_what_the_gram_matrices_give():
    model, inputs = deep(norm=False)
    network, groups, plan = pruned(model, inputs, {"8": [1, 5, 7, 9]}, ridge=1e-9)
    again = copy.deepcopy(network)
    refit(again, model, groups, plan, [(inputs,)], positions_per_image=EVERYWHERE, ridge=1e-9)
    with torch.no_grad():  # the first layer behind it reads what it used to read, less four channels
        torch.testing.assert_close(again[:12](inputs), network[:12](inputs), atol=2e-3, rtol=1e-2)


def test_no_images():
    model, inputs = deep(norm=False)
    network, groups, plan = pruned(model, inputs, {"0": [1]})
    with pytest.raises(UserError, match="no calibration images"):
        refit(network, model, groups, plan, [])
