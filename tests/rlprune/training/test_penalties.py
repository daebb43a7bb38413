"""Penalties against their formulas."""

from __future__ import annotations

import torch
from torch import nn

from rlprune.channels import trace_channels
from rlprune.recovery import FilterL1, Orthogonality


def test_filter_l1_is_the_sum_over_the_chosen_filters():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU(), nn.Conv2d(5, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3))
    groups = trace_channels(model, torch.randn(1, 3, 9, 9))
    penalty = FilterL1(groups, {"0": [1, 4], "2": [0]}, weight=0.3)
    wanted = 0.3 * (model[0].weight[[1, 4]].abs().sum() + model[2].weight[0].abs().sum())
    torch.testing.assert_close(penalty(model), wanted)
    penalty(model).backward()
    assert torch.equal(model[0].weight.grad[1], 0.3 * model[0].weight[1].sign())
    assert not model[0].weight.grad[[0, 2, 3]].any() and model[0].bias.grad is None
    assert FilterL1(groups, {"0": [1]}, weight=0.0)(model).item() == 0.0
    assert FilterL1(groups, {}, weight=1.0)(model).item() == 0.0


def test_orthogonality_against_the_formula():
    torch.manual_seed(1)
    model = nn.Sequential(nn.Conv2d(3, 5, 3), nn.Conv2d(5, 4, 1), nn.Flatten(), nn.Linear(8, 2))
    wanted = 0.0
    for layer in (model[0], model[1]):
        rows = layer.weight.reshape(layer.out_channels, -1)
        rows = rows / rows.norm(dim=1, keepdim=True)
        wanted = wanted + (rows @ rows.T - torch.eye(len(rows))).square().sum()
    torch.testing.assert_close(Orthogonality(2.0)(model), 2.0 * wanted)


def test_orthogonal_filters_cost_nothing_whatever_their_length():
    conv = nn.Conv2d(3, 6, 2)
    nn.init.orthogonal_(conv.weight)
    with torch.no_grad():
        conv.weight *= 7.0
    assert Orthogonality(1.0)(conv).item() < 1e-9
    depthwise = nn.Conv2d(6, 6, 3, groups=6)  # filters of different groups read different inputs
    assert Orthogonality(1.0)(depthwise).item() < 1e-9


def test_descending_it_makes_filters_orthogonal():
    torch.manual_seed(2)
    conv = nn.Conv2d(2, 6, 2)
    start = Orthogonality(1.0)(conv).item()
    optimizer = torch.optim.SGD(conv.parameters(), lr=0.05)
    for _ in range(200):
        optimizer.zero_grad()
        Orthogonality(1.0)(conv).backward()
        optimizer.step()
    assert Orthogonality(1.0)(conv).item() < 0.05 * start
