"""Channel groups: all groups of a model, and what a plan does to them.

Nothing here holds a tensor, a module or a graph, so groups pickle, deep-copy and turn into JSON in milliseconds and
outlive the model that they were traced from.
"""

from __future__ import annotations

import fnmatch
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from rlprune.channels.plan import PruningPlan
from rlprune.channels.units import Attribute, ChannelGroup, IntArray, Layer, Slot
from rlprune.errors import UserError, unknown_name

_FACTS = ("layers", "shapes", "parameters", "fixed_macs", "buffers", "attributes", "uncounted")


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
        attributes: Iterable[Attribute] = (),
        uncounted: Iterable[str] = (),
    ) -> None:
        """Bundle traced groups.

        Args:
            groups: the groups, names unique.
            layers: conv and linear layers by name, in execution order.
            shapes: shape of every parameter and buffer that a slot or a layer names.
            parameters: number of parameters of the whole model.
            fixed_macs: MACs of calls whose weight is no parameter (computed weights), which never change.
            buffers: those of `shapes` that are buffers, not parameters.
            attributes: plain numbers of modules that follow a removal.
            uncounted: operators whose MACs are not known, and are in no count.
        """
        self._groups = tuple(groups)
        self.layers: dict[str, Layer] = dict(layers)
        self.shapes: dict[str, tuple[int, ...]] = dict(shapes)
        self.parameters = parameters
        self.fixed_macs = fixed_macs
        self.buffers = frozenset(buffers)
        self.attributes = tuple(attributes)
        self.uncounted = tuple(uncounted)
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

    def _with(self, groups: Iterable[ChannelGroup], **changes: Any) -> ChannelGroups:
        facts = {name: getattr(self, name) for name in _FACTS}
        return ChannelGroups(groups, **{**facts, **changes})

    def with_attributes(self, attributes: Iterable[Attribute]) -> ChannelGroups:
        """The same groups with other attributes of modules that follow a removal."""
        return self._with(self._groups, attributes=attributes)

    def attributes_after(self, plan: PruningPlan) -> dict[str, dict[str, int | dict[int, int]]]:
        """Module path -> attribute -> its new number (by place, if it holds several), for all that a plan changes."""
        changes: dict[str, dict[str, int | dict[int, int]]] = {}
        for old in self.attributes:
            new = old.after(plan.counts)
            if new.value != old.value:
                module = changes.setdefault(new.module, {})
                if new.place is None:
                    module[new.name] = new.value
                else:
                    places = module.setdefault(new.name, {})
                    assert isinstance(places, dict)
                    places[new.place] = new.value
        return changes

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

    def kept(self, plan: PruningPlan) -> dict[tuple[str, int], IntArray]:
        """(tensor, dim) -> sorted positions that stay, for every dimension that shrinks under a plan."""
        return {key: np.flatnonzero(stays) for key, stays in self._stays(plan).items()}

    def cuts(self, plan: PruningPlan) -> dict[str, dict[int, IntArray]]:
        """Tensor -> dim -> sorted positions that stay, for every tensor that shrinks under a plan."""
        found: dict[str, dict[int, IntArray]] = {}
        for (tensor, dim), stays in self.kept(plan).items():
            found.setdefault(tensor, {})[dim] = stays
        return found

    def removed_positions(self, plan: PruningPlan) -> dict[tuple[str, int], IntArray]:
        """(tensor, dim) -> sorted positions that go under a plan."""
        return {key: np.flatnonzero(~stays) for key, stays in self._stays(plan).items()}

    def _stays(self, plan: PruningPlan) -> dict[tuple[str, int], npt.NDArray[np.bool_]]:
        masks: dict[tuple[str, int], npt.NDArray[np.bool_]] = {}
        for name, units in plan.removed.items():
            gone = np.asarray(units, dtype=np.int64)
            for slot in self[name].slots:
                key = slot.tensor, slot.dim
                if key not in masks:
                    masks[key] = np.ones(self.shapes[slot.tensor][slot.dim], dtype=bool)
                masks[key][slot.index[gone]] = False
        return masks

    def after(self, plan: PruningPlan) -> ChannelGroups:
        """The groups of the pruned network: same names, units and positions renumbered from 0, nothing retraced."""
        plan.validate(self)
        if not plan:
            return self
        shapes = dict(self.shapes)
        maps: dict[tuple[str, int], IntArray] = {}
        for (tensor, dim), stays in self._stays(plan).items():
            maps[tensor, dim] = np.cumsum(stays) - 1
            shapes[tensor] = (*shapes[tensor][:dim], int(stays.sum()), *shapes[tensor][dim + 1 :])
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
        return self._with(
            groups,
            layers=layers,
            shapes=shapes,
            parameters=self.parameters - lost,
            fixed_macs=self.fixed_macs - sum(self[name].filter_macs * count for name, count in plan.counts.items()),
            attributes=[attribute.after(plan.counts) for attribute in self.attributes],
        )

    def report(self) -> LockReport:
        """Every lock and its reason."""
        return LockReport(tuple((group.name, group.size, group.locked) for group in self._groups if group.locked))

    def to_json(self) -> dict[str, Any]:
        """A dict of plain Python values that `from_json` reads."""
        return {
            "groups": [
                {**_plain(group), "slots": [{**_plain(slot), "index": slot.index.tolist()} for slot in group.slots]}
                for group in self._groups
            ],
            "layers": [_plain(layer) for layer in self.layers.values()],
            "shapes": {name: list(shape) for name, shape in self.shapes.items()},
            "parameters": self.parameters,
            "fixed_macs": self.fixed_macs,
            "buffers": sorted(self.buffers),
            "attributes": [{**vars(a), "terms": [list(term) for term in a.terms]} for a in self.attributes],
            "uncounted": list(self.uncounted),
        }

    @classmethod
    def from_json(cls, data: Any) -> ChannelGroups:
        """The groups that `to_json` wrote."""
        groups = []
        for g in data["groups"]:
            slots = [{**s, "index": np.asarray(s["index"], dtype=np.int64).reshape(g["size"], -1)} for s in g["slots"]]
            fields = {**_tuples(g), "kinds": frozenset(g["kinds"]), "slots": tuple(Slot(**slot) for slot in slots)}
            groups.append(ChannelGroup(**fields))
        layers = [Layer(**_tuples(layer)) for layer in data["layers"]]
        facts = {
            **{name: data[name] for name in _FACTS if name in data},
            "layers": {layer.name: layer for layer in layers},
            "shapes": {name: tuple(shape) for name, shape in data["shapes"].items()},
            "attributes": [
                Attribute(**{**a, "terms": tuple((name, each) for name, each in a["terms"])})
                for a in data.get("attributes", ())
            ],
        }
        return cls(groups, **facts)


def _plain(value: Any) -> dict[str, Any]:
    """A dataclass's fields, its tuples and sets as lists."""
    return {
        key: sorted(v) if isinstance(v, frozenset) else list(v) if isinstance(v, tuple) else v
        for key, v in vars(value).items()
    }


def _tuples(data: Mapping[str, Any]) -> dict[str, Any]:
    return {key: tuple(v) if isinstance(v, list) else v for key, v in data.items()}


@dataclass(frozen=True)
class LockReport:
    """Every locked group with its size and reason; `str()` is for people.

    >>> print(LockReport((("fc", 10, "it is an output of the model"),)))
    1 locked group (10 channels):
      fc (10): it is an output of the model
    """

    locks: tuple[tuple[str, int, str], ...] = ()

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
