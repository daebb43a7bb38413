"""Channel groups: which filters go together, as plain names and integers.

A *unit* is one filter together with everything that has to go with it; a *group* is a set of units of the same make,
any of which can be removed on its own. Nothing here holds a tensor, a module or a graph, so groups pickle, deep-copy
and turn into JSON in milliseconds and outlive the model that they were traced from.
"""

from __future__ import annotations

import fnmatch
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import numpy.typing as npt

from rlprune.errors import UserError, unknown_name

if TYPE_CHECKING:
    from rlprune.channels.plan import PruningPlan

IntArray = npt.NDArray[np.int64]


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
        kinds: what the group is tied to: subset of "depthwise", "grouped", "residual", "concatenated", "transposed",
            "linear".
        min_channels: units that must stay.
        round_to: the number of units kept is a multiple of this.
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


class ChannelGroups(Sequence[ChannelGroup]):
    """All groups of a model, in execution order of their first producers.

    Indexing takes a position or a name. `layers` and `shapes` carry what the cost model and surgery need.
    """

    def __init__(
        self,
        groups: Iterable[ChannelGroup],
        layers: Mapping[str, Layer],
        shapes: Mapping[str, tuple[int, ...]],
        parameters: int = 0,
        fixed_macs: int = 0,
        buffers: Iterable[str] = (),
    ) -> None:
        """Bundle traced groups.

        Args:
            groups: the groups, names unique.
            layers: conv and linear layers by name, in execution order.
            shapes: shape of every parameter and buffer that a slot or a layer names.
            parameters: number of parameters of the whole model.
            fixed_macs: MACs of calls whose weight is no parameter (computed weights), which never change.
            buffers: those of `shapes` that are buffers, not parameters.
        """
        self._groups = tuple(groups)
        self.layers: dict[str, Layer] = dict(layers)
        self.shapes: dict[str, tuple[int, ...]] = dict(shapes)
        self.parameters = parameters
        self.fixed_macs = fixed_macs
        self.buffers = frozenset(buffers)
        self._position = {group.name: i for i, group in enumerate(self._groups)}
        if len(self._position) != len(self._groups):
            raise ValueError("group names are not unique")

    @overload
    def __getitem__(self, key: int | str) -> ChannelGroup: ...
    @overload
    def __getitem__(self, key: slice) -> tuple[ChannelGroup, ...]: ...
    def __getitem__(self, key: int | str | slice) -> ChannelGroup | tuple[ChannelGroup, ...]:
        if isinstance(key, str):
            if key not in self._position:
                raise unknown_name("channel group", key, self._position)
            return self._groups[self._position[key]]
        return self._groups[key]

    def __len__(self) -> int:
        return len(self._groups)

    def __iter__(self) -> Iterator[ChannelGroup]:
        return iter(self._groups)

    def __contains__(self, key: object) -> bool:
        return key in self._position or any(key is group for group in self._groups)

    def __repr__(self) -> str:
        return f"ChannelGroups({len(self.prunable)} prunable, {len(self) - len(self.prunable)} locked)"

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all groups, in order."""
        return tuple(self._position)

    @cached_property
    def prunable(self) -> tuple[ChannelGroup, ...]:
        """The groups that are not locked, in execution order."""
        return tuple(group for group in self._groups if group.locked is None)

    def _with(self, groups: Iterable[ChannelGroup]) -> ChannelGroups:
        return ChannelGroups(groups, self.layers, self.shapes, self.parameters, self.fixed_macs, self.buffers)

    def lock(self, patterns: Iterable[str], reason: str = "kept by the user's pattern {pattern!r}") -> ChannelGroups:
        """Lock every group whose name or one of whose producers matches a shell pattern.

        Raises:
            UserError: a pattern matches no group.
        """
        groups = list(self._groups)
        for pattern in patterns:
            hit = False
            for i, group in enumerate(groups):
                if any(fnmatch.fnmatchcase(name, pattern) for name in (group.name, *group.producers)):
                    hit = True
                    if group.locked is None:
                        groups[i] = replace(group, locked=reason.format(pattern=pattern))
            if not hit:
                raise UserError(f"pattern {pattern!r} matches no channel group; groups are named like {self.names[:3]}")
        return self._with(groups)

    def with_locks(self, reasons: Mapping[str, str]) -> ChannelGroups:
        """The same groups with more of them locked: group name -> reason."""
        return self._with(
            replace(group, locked=reasons[group.name]) if group.name in reasons and group.locked is None else group
            for group in self._groups
        )

    def with_minimum(self, min_channels: int = 2, round_to: int = 1, pattern: str = "*") -> ChannelGroups:
        """The same groups with another minimum and rounding where the name matches `pattern`."""
        if min_channels < 1 or round_to < 1:
            raise UserError(f"min_channels is {min_channels} and round_to is {round_to}; both must be at least 1")
        return self._with(
            replace(group, min_channels=min_channels, round_to=round_to)
            if fnmatch.fnmatchcase(group.name, pattern)
            else group
            for group in self._groups
        )

    def removed_positions(self, plan: PruningPlan) -> dict[tuple[str, int], IntArray]:
        """(tensor, dim) -> sorted positions that go under a plan."""
        return {
            (tensor, dim): np.setdiff1d(np.arange(self.shapes[tensor][dim]), keep, assume_unique=True)
            for (tensor, dim), keep in self.kept(plan).items()
        }

    def kept(self, plan: PruningPlan) -> dict[tuple[str, int], IntArray]:
        """(tensor, dim) -> sorted positions that stay, for the dimensions that shrink under a plan."""
        masks: dict[tuple[str, int], npt.NDArray[np.bool_]] = {}
        for name, units in plan.removed.items():
            chosen = np.asarray(units, dtype=np.int64)
            for slot in self[name].slots:
                key = (slot.tensor, slot.dim)
                if key not in masks:
                    masks[key] = np.ones(self.shapes[slot.tensor][slot.dim], dtype=bool)
                masks[key][slot.index[chosen]] = False
        return {key: np.flatnonzero(mask) for key, mask in masks.items()}

    def after(self, plan: PruningPlan) -> ChannelGroups:
        """The groups of the pruned network: same names, units and positions renumbered from 0, nothing retraced."""
        plan.validate(self)
        if not plan:
            return self
        shapes = dict(self.shapes)
        maps: dict[tuple[str, int], IntArray] = {}
        for (tensor, dim), keep in self.kept(plan).items():
            maps[tensor, dim] = np.searchsorted(keep, np.arange(shapes[tensor][dim]))
            shape = list(shapes[tensor])
            shape[dim] = len(keep)
            shapes[tensor] = tuple(shape)
        groups = []
        for group in self._groups:
            removed = plan.removed.get(group.name, ())
            rows = np.delete(np.arange(group.size), removed)
            slots = []
            for slot in group.slots:
                index = slot.index[rows] if removed else slot.index
                renumber = maps.get((slot.tensor, slot.dim))
                slots.append(Slot(slot.tensor, slot.dim, slot.role, index if renumber is None else renumber[index]))
            groups.append(replace(group, size=len(rows), slots=tuple(slots)))
        layers = {
            name: layer if shapes[layer.weight] == layer.shape else layer.resized(shapes[layer.weight])
            for name, layer in self.layers.items()
        }
        lost = sum(math.prod(self.shapes[t]) - math.prod(shape) for t, shape in shapes.items() if t not in self.buffers)
        return ChannelGroups(groups, layers, shapes, self.parameters - lost, self.fixed_macs, self.buffers)

    def report(self) -> LockReport:
        """Every lock and its reason."""
        return LockReport(tuple((group.name, group.size, group.locked) for group in self._groups if group.locked))

    def to_json(self) -> dict[str, Any]:
        """A dict of plain Python values that `from_json` reads."""
        return {
            "groups": [
                {
                    "name": g.name,
                    "size": g.size,
                    "locked": g.locked,
                    "producers": list(g.producers),
                    "consumers": list(g.consumers),
                    "kinds": sorted(g.kinds),
                    "min_channels": g.min_channels,
                    "round_to": g.round_to,
                    "slots": [
                        {"tensor": s.tensor, "dim": s.dim, "role": s.role, "index": s.index.tolist()} for s in g.slots
                    ],
                }
                for g in self._groups
            ],
            "layers": [
                {**vars(layer), "kernel": list(layer.kernel), "stride": list(layer.stride), "shape": list(layer.shape)}
                for layer in self.layers.values()
            ],
            "shapes": {name: list(shape) for name, shape in self.shapes.items()},
            "parameters": self.parameters,
            "fixed_macs": self.fixed_macs,
            "buffers": sorted(self.buffers),
        }

    @classmethod
    def from_json(cls, data: Any) -> ChannelGroups:
        """The groups that `to_json` wrote."""
        groups = [
            ChannelGroup(
                name=g["name"],
                size=g["size"],
                slots=tuple(
                    Slot(
                        s["tensor"], s["dim"], s["role"], np.asarray(s["index"], dtype=np.int64).reshape(g["size"], -1)
                    )
                    for s in g["slots"]
                ),
                locked=g["locked"],
                producers=tuple(g["producers"]),
                consumers=tuple(g["consumers"]),
                kinds=frozenset(g["kinds"]),
                min_channels=g["min_channels"],
                round_to=g["round_to"],
            )
            for g in data["groups"]
        ]
        layers = []
        for layer in data["layers"]:
            fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in layer.items()}
            layers.append(Layer(**fields))
        shapes = {name: tuple(shape) for name, shape in data["shapes"].items()}
        return cls(groups, {x.name: x for x in layers}, shapes, data["parameters"], data["fixed_macs"], data["buffers"])


@dataclass(frozen=True)
class LockReport:
    """Every locked group with its size and reason; `str()` is for people.

    >>> print(LockReport((("fc", 10, "it is an output of the model"),)))
    1 locked group (10 channels):
      fc (10): it is an output of the model
    """

    locks: tuple[tuple[str, int, str], ...] = field(default=())

    def __len__(self) -> int:
        return len(self.locks)

    @property
    def reasons(self) -> dict[str, str]:
        """Group name -> reason."""
        return {name: reason for name, _, reason in self.locks}

    def by_reason(self) -> dict[str, int]:
        """Reason -> number of groups locked for it, most frequent first."""
        return dict(Counter(reason for _, _, reason in self.locks).most_common())

    def __str__(self) -> str:
        channels = sum(size for _, size, _ in self.locks)
        head = f"{len(self.locks)} locked group{'s' * (len(self.locks) != 1)} ({channels} channels):"
        return "\n".join([head, *(f"  {name} ({size}): {reason}" for name, size, reason in self.locks)])
