"""Every model of the zoo: masked equals removed under random plans, and the cost model agrees with torch's counter."""

from __future__ import annotations

import functools

import pytest
import torch
from channel_helpers import flop_macs, random_plan
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from rlprune.channels import ChannelGroups, mask_channels, remove_channels, trace_channels
from rlprune.cost import CostModel, count_parameters
from rlprune.models import create_model, list_models

HEAVY = {"unet", "ternausnet", "vgg16", "resnet110"}
NAMES = [pytest.param(n, marks=pytest.mark.slow) if n in HEAVY else n for n in list_models()]


@functools.lru_cache(maxsize=2)
def traced(name: str) -> tuple[nn.Module, torch.Tensor, ChannelGroups]:
    torch.manual_seed(0)
    model = create_model(name).eval()
    channels = next(p for p in model.parameters() if p.ndim == 4).shape[1]
    x = torch.randn(1, channels, 32, 32)
    return model, x, trace_channels(model, x)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=4, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 2**31), rate=st.one_of(st.none(), st.floats(0, 1)))
def test_random_plans(name: str, seed: int, rate: float | None) -> None:
    model, x, groups = traced(name)
    plan = random_plan(groups, rate, seed)
    removed, masked = remove_channels(model, groups, plan), mask_channels(model, groups, plan)
    with torch.no_grad():
        a, b = removed(x), masked(x)
    assert float((a - b).abs().max()) <= 1e-5 * max(1.0, float(b.abs().max()))
    cost = CostModel(groups)
    assert cost.macs(plan.counts) == flop_macs(removed, x)
    assert cost.parameters(plan.counts) == count_parameters(removed)
