"""Channels that come back: a trained network that turned out too small is the start of one a little larger."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain

import numpy as np
import torch
from torch import Tensor, nn

from rlprune.channels.groups import ChannelGroups
from rlprune.channels.plan import PruningPlan
from rlprune.channels.units import IntArray


@torch.no_grad()
def regrow(
    after: nn.Module,
    before: nn.Module,
    groups: ChannelGroups,
    plan: PruningPlan,
    trained: Mapping[str, Tensor],
    removed: PruningPlan,
) -> None:
    """Give `after` what a smaller relative of it has learnt, in place.

    Channels that both have get the relative's weights. Those that it lacks come back as they were in `before`, and
    what reads them starts at zero: where `plan` is part of `removed`, and no norm runs over channels, `after` computes
    what the relative computes, and has room to learn more.

    Args:
        after: `remove_channels(before, groups, plan)`.
        before: The network that both were made from.
        groups: Its channel groups.
        plan: What `after` lacks.
        trained: Tensors of the relative, by name; it came from `remove_channels(before, groups, removed)`.
        removed: What it lacks.
    """
    there, here = groups.cuts(removed), groups.cuts(plan)
    readers = {(slot.tensor, slot.dim) for group in groups for slot in group.slots if slot.role == "in"}
    whole = before.state_dict()
    for name, value in chain(after.named_parameters(), after.named_buffers()):
        if name not in trained:
            continue  # what no state holds
        if name not in there and name not in here:
            value.copy_(trained[name])
            continue
        merged = whole[name].clone()
        known, stay = _axes(merged, there.get(name, {})), _axes(merged, here.get(name, {}))
        for dim, places in enumerate(known):
            if (name, dim) in readers:
                merged[_grid([*known[:dim], _others(places, merged.shape[dim]), *known[dim + 1 :]])] = 0
        merged[_grid(known)] = trained[name].to(merged)
        value.copy_(merged[_grid(stay)])


def _axes(tensor: Tensor, places: Mapping[int, IntArray]) -> list[Tensor]:
    """The positions that stay on every axis, all of them where none are named."""
    return [torch.from_numpy(places.get(dim, np.arange(size))) for dim, size in enumerate(tensor.shape)]


def _others(places: Tensor, size: int) -> Tensor:
    mask = torch.ones(size, dtype=torch.bool)
    mask[places] = False
    return mask.nonzero().flatten()


def _grid(places: list[Tensor]) -> tuple[Tensor, ...]:
    """An index of all combinations of positions, given those of every axis."""
    return torch.meshgrid(*places, indexing="ij")
