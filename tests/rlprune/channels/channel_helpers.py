"""Random plans and the comparison that every test of the engine makes."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from rlprune.channels import ChannelGroups, PruningPlan, mask_channels, remove_channels
from rlprune.channels.checking import shaken
from rlprune.channels.forward import Forward, tensors_in


def random_plan(groups: ChannelGroups, rate: float | None, seed: int = 0) -> PruningPlan:
    """A share of every prunable group (a random share each if `rate` is None), random units."""
    rng = np.random.default_rng(seed)
    removed = {}
    for group in groups.prunable:
        count = group.allowed(round((rng.random() if rate is None else rate) * group.size))
        removed[group.name] = rng.permutation(group.size)[:count].tolist()
    return PruningPlan(removed)


def difference(
    model: nn.Module, groups: ChannelGroups, plan: PruningPlan, *inputs: Any, kwargs: dict[str, Any] | None = None
) -> float:
    """Largest relative difference of the outputs of the masked and the removed network, in double precision.

    Normalisation statistics are shaken first; differing shapes are an infinite difference.
    """
    model = copy.deepcopy(shaken(model)).double()  # shaken shares weights
    forward = Forward(inputs, kwargs or {}).double()
    worst = 0.0
    with torch.no_grad():
        masked = tensors_in(forward(mask_channels(model, groups, plan)))
        removed = tensors_in(forward(remove_channels(model, groups, plan)))
    if len(masked) != len(removed):
        return float("inf")
    for a, b in zip(masked, removed, strict=True):
        if a.shape != b.shape:
            return float("inf")
        if a.numel():
            a, b = a.double(), b.double()
            worst = max(worst, float((a - b).abs().max()) / max(float(a.abs().max()), 1e-12))
    return worst


def flop_macs(model: nn.Module, *inputs: Any) -> int:
    """What torch's own counter says."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        Forward(inputs)(model.eval())
    return int(counter.get_total_flops()) // 2
