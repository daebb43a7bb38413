"""Models in half precision: the same groups as in single precision, and masked equals removed as far as it goes."""

from __future__ import annotations

import functools

import pytest
import torch
from channel_helpers import random_plan
from channel_structures import STRUCTURES, inputs_of
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from rlprune.channels import mask_channels, remove_channels, trace_channels
from rlprune.channels.checking import shaken
from rlprune.channels.forward import Forward, tensors_in

# what torch itself cannot run in half precision on the CPU: there is no such kernel of avg_pool3d
ABLE = sorted(STRUCTURES.keys() - {"conv3d", "local response norm"})
STEPS = {torch.bfloat16: 2**-8, torch.float16: 2**-11}


def halved(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """The model in a precision, its plain tensor attributes too, which `Module.to` forgets."""
    for child in model.modules():
        for key, value in list(vars(child).items()):
            if isinstance(value, Tensor):
                setattr(child, key, value.detach().to(dtype))
    return model.to(dtype)


@functools.lru_cache(maxsize=1)
def in_single_precision(name: str) -> dict[str, int]:
    """The sizes of the groups that can be pruned; once for both precisions."""
    torch.manual_seed(0)
    groups = trace_channels(STRUCTURES[name]().eval(), *inputs_of(name))
    return {group.name: group.size for group in groups.prunable}


@pytest.mark.parametrize("dtype", STEPS, ids=str)
@pytest.mark.parametrize("name", ABLE)
def test_half_precision(name: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model, inputs = STRUCTURES[name]().eval(), inputs_of(name)
    model = halved(model, dtype)
    inputs = tree_map(lambda t: t.to(dtype) if t.is_floating_point() else t, inputs)
    groups = trace_channels(model, *inputs)
    assert {g.name: g.size for g in groups.prunable} == in_single_precision(name), groups.report()
    plan, model = random_plan(groups, 0.4), shaken(model)
    with torch.no_grad():
        masked = tensors_in(Forward(inputs)(mask_channels(model, groups, plan)))
        removed = tensors_in(Forward(inputs)(remove_channels(model, groups, plan)))
    for a, b in zip(masked, removed, strict=True):
        assert a.dtype == b.dtype == dtype
        largest = max(float(a.double().abs().max()), 1e-9)
        assert float((a.double() - b.double()).abs().max()) <= 8 * STEPS[dtype] * largest
