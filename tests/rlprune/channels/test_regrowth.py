"""A network that grew back computes what the smaller one had learnt."""

from __future__ import annotations

import pytest
import torch
from channel_helpers import random_plan
from channel_structures import STRUCTURES, inputs_of
from torch import nn

from rlprune.channels import ChannelGroups, PruningPlan, remove_channels, trace_channels
from rlprune.channels.forward import Forward, tensors_in
from rlprune.channels.regrowth import regrow

OVER_CHANNELS = {"normalised over channels"}  # a channel more changes the others


def half_of(plan: PruningPlan) -> PruningPlan:
    return PruningPlan({name: units[: len(units) // 2] for name, units in plan.removed.items() if len(units) > 1})


def trained_copy(model: nn.Module, groups: ChannelGroups, plan: PruningPlan) -> nn.Module:
    """A smaller network whose every number is another than before."""
    small = remove_channels(model, groups, plan)
    with torch.no_grad():
        for tensor in [*small.parameters(), *small.buffers()]:
            if tensor.is_floating_point():
                tensor.add_(torch.rand_like(tensor) * 0.1)
    return small


def grown(model, groups, plan, small, removed):
    after = remove_channels(model, groups, plan)
    regrow(after, model, groups, plan, small.state_dict(), removed)
    return after


@pytest.mark.parametrize("name", sorted(STRUCTURES.keys() - OVER_CHANNELS))
def test_it_computes_the_same_where_channels_only_come_back(name: str) -> None:
    torch.manual_seed(0)
    model, inputs = STRUCTURES[name]().eval(), inputs_of(name)
    groups = trace_channels(model, *inputs)
    removed = random_plan(groups, 0.6, 0)
    plan = half_of(removed)
    small = trained_copy(model, groups, removed)
    after = grown(model, groups, plan, small, removed)
    with torch.no_grad():
        one, other = (tensors_in(Forward(inputs)(network)) for network in (after, small))
    for a, b in zip(one, other, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_equal_plans_give_the_same_network_and_channels_come_back_as_they_were() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 4, 3)).eval()
    groups = trace_channels(model, torch.randn(2, 3, 8, 8), keep=("3",))
    removed = PruningPlan({"0": (1, 4)})
    small = trained_copy(model, groups, removed)
    same = grown(model, groups, removed, small, removed)
    assert all(torch.equal(a, b) for a, b in zip(same.state_dict().values(), small.state_dict().values(), strict=True))
    after = grown(model, groups, PruningPlan({"0": (4,)}), small, removed)
    assert torch.equal(after[0].weight[1], model[0].weight[1])  # the filter that came back, as it was
    assert torch.equal(after[0].weight[[0, 2, 3, 4]], small[0].weight)
    assert not after[3].weight[:, 1].any() and torch.equal(after[3].weight[:, [0, 2, 3, 4]], small[3].weight)


def test_what_only_the_larger_network_lacks_is_not_there() -> None:
    """Other rates may take a channel that the trained one had."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 4, 3)).eval()
    groups = trace_channels(model, torch.randn(2, 3, 8, 8), keep=("2",))
    removed = PruningPlan({"0": (0, 1, 2)})
    small = trained_copy(model, groups, removed)
    after = grown(model, groups, PruningPlan({"0": (5,)}), small, removed)
    assert after[0].weight.shape[0] == 5
    assert torch.equal(after[0].weight[3:], small[0].weight[:2])  # 3 and 4
