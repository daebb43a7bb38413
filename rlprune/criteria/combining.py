"""From filters to units: gather what belongs to a unit in each layer, and combine the layers a group couples."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from rlprune.channels import ChannelGroup, ChannelGroups, Layer, Slot
from rlprune.criteria.base import Scores
from rlprune.registry import Registry

AT_A_TIME = 2**20  # numbers

COMBINE: Registry[Callable[[Sequence[Scores]], Scores]] = Registry("way to combine layers")
"""How the per-layer scores of a group, each (size,), become the group's score."""


@COMBINE.register("mean")
def _mean(layers: Sequence[Scores]) -> Scores:
    """Mean of the scores, each layer first divided by its own mean, so that no layer outweighs the others.

    The result is put back on the scale of the layers (times the mean of their means), so that groups stay comparable
    and a group of one layer keeps its scores.
    """
    if len(layers) == 1:
        return layers[0]
    means = [float(s.mean()) for s in layers]
    shares = [s / m if m > 0 else s for s, m in zip(layers, means, strict=True)]
    return np.asarray(np.mean(shares, axis=0) * np.mean(means))


@COMBINE.register("sum")
def _sum(layers: Sequence[Scores]) -> Scores:
    """Plain sum: layers with large scores decide."""
    return np.asarray(np.sum(layers, axis=0))


@COMBINE.register("max")
def _max(layers: Sequence[Scores]) -> Scores:
    """A unit stays if any of its layers needs it; each layer divided by its own mean."""
    if len(layers) == 1:
        return layers[0]
    means = [float(s.mean()) for s in layers]
    shares = [s / m if m > 0 else s for s, m in zip(layers, means, strict=True)]
    return np.asarray(np.max(shares, axis=0) * np.mean(means))


@COMBINE.register("first")
def _first(layers: Sequence[Scores]) -> Scores:
    """The layer that comes first decides (PFEC ranks a residual group by one of its layers)."""
    return layers[0]


def combine_layers(how: str, layers: Iterable[Scores], size: int) -> Scores:
    """Combine per-layer scores; a group without any layer to judge by scores all ones."""
    scores = list(layers)
    if not scores:
        return np.ones(size)
    return COMBINE.get(how)(scores)


def weight_slots(groups: ChannelGroups, group: ChannelGroup, role: str) -> list[tuple[Layer, Slot]]:
    """The slots of a group that lie in layers' weights, with the layer: its filters ("out") or its readers ("in").

    A depthwise filter is "out" (it goes with the channel) although it reads the channel too.
    """
    owners = {layer.weight: layer for layer in groups.layers.values()}
    return [(owners[s.tensor], s) for s in group.slots if s.role == role and s.tensor in owners]


def unit_rows(model: nn.Module, slot: Slot) -> Tensor:
    """What a slot holds of every unit, (size, elements), float64, copies side by side."""
    return _rows(model, slot).double()


def unit_norms(model: nn.Module, slot: Slot, norm: Callable[[Tensor], Tensor]) -> Scores:
    """A norm (size,) of each row of `unit_rows`, without so large a copy of the weights."""
    rows = _rows(model, slot)
    parts = torch.split(rows, max(1, AT_A_TIME // max(1, rows.shape[1])))
    return as_scores(torch.cat([norm(part.double()) for part in parts]))


def _rows(model: nn.Module, slot: Slot) -> Tensor:
    tensor = model.get_parameter(slot.tensor).detach()
    flat = tensor.movedim(slot.dim, 0).reshape(tensor.shape[slot.dim], -1)
    if not np.array_equal(slot.index.ravel(), np.arange(len(flat))):
        flat = flat[torch.from_numpy(slot.index).to(flat.device)]
    return flat.reshape(len(slot.index), -1)


def as_scores(values: Tensor) -> Scores:
    """A (size,) tensor as float64 on the CPU."""
    return values.detach().double().cpu().numpy()
