"""Units and groups as plain names and integers: which filters go together, and where they live.

A *unit* is one filter together with everything that has to go with it; a *group* is a set of units of the same make,
any of which can be removed on its own.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from rlprune.errors import unknown_name

IntArray = npt.NDArray[np.int64]

KINDS = ("depthwise", "grouped", "residual", "concatenated", "transposed", "linear")


def check_kinds(names: Iterable[str]) -> None:
    """Raise UserError for what is neither one of `KINDS` nor "none", which stands for a group of no kind."""
    for name in names:
        if name not in (*KINDS, "none"):
            raise unknown_name("kind of group", name, [*KINDS, "none"])


@dataclass(frozen=True, eq=False)
class Slot:
    """Where the units of a group live in one tensor.

    Attributes:
        tensor: dotted name of the parameter or buffer.
        dim: the dimension that shrinks.
        role: "out" (a producer's filters: weight or bias), "in" (a consumer's input channels), "norm" (parameters and
            buffers of a normalisation), "scale" (anything else of channel length: PReLU, layer scale ...).
        index: int64 (size, copies); row j holds the positions along `dim` that go with unit j.
    """

    tensor: str
    dim: int
    role: str
    index: IntArray


@dataclass(frozen=True)
class Layer:
    """A convolution or linear layer as the cost model and the recovery need it.

    Attributes:
        name: module path (the parameter's own name when the weight is not called "weight").
        weight: name of the weight parameter.
        bias: name of the bias parameter, if there is one.
        kind: "conv", "conv_transpose" or "linear".
        groups: groups of the convolution (1 for linear).
        kernel: spatial kernel size, () for linear.
        stride: spatial stride, () for linear.
        extent: positions at which the weight is applied, summed over all calls: batch x output positions (input
            positions of a transposed convolution). MACs = extent x number of weights.
        in_extent: batch x input positions, summed over all calls.
        out_extent: batch x output positions, summed over all calls.
        shape: shape of the weight.
        order: place in execution order, from 0.
        groups_follow_channels: True when a channel takes its convolution group along (depthwise, one filter a group).
    """

    name: str
    weight: str
    bias: str | None
    kind: str
    groups: int
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    extent: int
    in_extent: int
    out_extent: int
    shape: tuple[int, ...]
    order: int
    groups_follow_channels: bool = False

    def resized(self, shape: tuple[int, ...]) -> Layer:
        """The same layer with another weight shape."""
        groups = self.groups
        if self.groups_follow_channels:
            groups = shape[0] * self.groups // self.shape[0]
        return replace(self, shape=shape, groups=groups)

    @property
    def macs(self) -> int:
        """Multiply-accumulates of all calls of the layer."""
        return self.extent * math.prod(self.shape)


@dataclass(frozen=True)
class Attribute:
    """A width that a module keeps as a plain number of its own (a split size, a number of heads), and what changes it.

    Attributes:
        module: path of the module.
        name: of the attribute.
        place: index into the attribute, where it is a list or tuple of numbers.
        value: the number now.
        terms: (group, what the number loses with each of its units).
    """

    module: str
    name: str
    place: int | None
    value: int
    terms: tuple[tuple[str, int], ...]

    def after(self, counts: Mapping[str, int]) -> Attribute:
        """The attribute after units were removed (group name -> count)."""
        lost = sum(each * counts.get(group, 0) for group, each in self.terms)
        return replace(self, value=self.value - lost) if lost else self


@dataclass(frozen=True, eq=False)
class ChannelGroup:
    """Units that can be removed one by one, and where they live.

    Attributes:
        name: module path of the first producer, with "#2", "#3" ... if a layer has several groups.
        size: number of units.
        slots: where the units live.
        locked: why the group must stay as it is, or None.
        producers: layers that make the units' channels, in execution order; may be empty in a locked group of a layer
            whose weight is computed or that never ran, which has no slots either.
        consumers: layers that read them, in execution order.
        kinds: what the group is tied to: subset of `KINDS`.
        min_channels: units that must stay.
        round_to: the number of units kept is a multiple of this.
        filter_macs: MACs that go with each unit in fixed filters, which do the same to every channel.
        approximate: what a removal changes besides the units themselves (statistics of a normalisation, say); empty
            for an exact group, and always unless `trace_channels(..., approximate=True)`.
        remarks: what else is good to know.
    """

    name: str
    size: int
    slots: tuple[Slot, ...]
    locked: str | None = None
    producers: tuple[str, ...] = ()
    consumers: tuple[str, ...] = ()
    kinds: frozenset[str] = frozenset()
    min_channels: int = 2
    round_to: int = 1
    filter_macs: int = 0
    approximate: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()

    @property
    def max_removable(self) -> int:
        """The largest number of units that may go, given the lock, `min_channels` and `round_to`."""
        if self.locked is not None:
            return 0
        return self.allowed(self.size)

    def allowed(self, count: int) -> int:
        """The largest number of removals <= `count` that keeps `min_channels` units and a multiple of `round_to`."""
        least = max(self.min_channels, 1)
        step = max(self.round_to, 1)
        keep = max(self.size - max(count, 0), least)
        keep = -(-keep // step) * step
        return max(self.size - keep, 0)
