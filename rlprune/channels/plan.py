"""PruningPlan: which units of which groups go. Immutable, comparable, JSON-able, and plans compose."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping
from itertools import pairwise
from types import MappingProxyType
from typing import Any, Protocol

from rlprune.channels.units import ChannelGroup
from rlprune.errors import UserError


class Groups(Protocol):
    """Groups by name, as a plan needs them."""

    def __getitem__(self, key: str, /) -> ChannelGroup: ...


class PruningPlan:
    """Units to remove, by group name.

    Indices are sorted and empty entries dropped, so that equal plans compare and hash equal. A plan is checked against
    the groups it is meant for by `validate`, which everything that applies a plan calls.

    >>> PruningPlan({"conv1": [3, 1], "conv2": []})
    PruningPlan({'conv1': (1, 3)})
    """

    __slots__ = ("_removed",)

    def __init__(self, removed: Mapping[str, Iterable[int]] | None = None) -> None:
        """Make a plan.

        Args:
            removed: group name -> unit indices, numbered in the groups the plan is for.
        """
        entries = {}
        if not isinstance(removed, Mapping | None):
            raise UserError(f"a plan of a {type(removed).__name__}; give a dict of lists of units by group name")
        for name, units in (removed or {}).items():
            try:
                indices = tuple(sorted(map(operator.index, units)))
            except (TypeError, ValueError):
                raise UserError(f"group {name!r}: {units!r} is not a list of integers") from None
            if indices:
                entries[str(name)] = indices
        self._removed: Mapping[str, tuple[int, ...]] = MappingProxyType(dict(sorted(entries.items())))

    @property
    def removed(self) -> Mapping[str, tuple[int, ...]]:
        """Group name -> sorted unit indices; no empty entries."""
        return self._removed

    def count(self, name: str) -> int:
        """How many units of a group go."""
        return len(self._removed.get(name, ()))

    @property
    def counts(self) -> dict[str, int]:
        """Group name -> number of units that go."""
        return {name: len(units) for name, units in self._removed.items()}

    def validate(self, groups: Groups) -> None:
        """Check the plan against groups.

        Raises:
            UserError: naming the group: unknown or locked, an index twice or out of range, or too few units left.
        """
        for name, units in self._removed.items():
            group = groups[name]
            if group.locked is not None:
                raise UserError(f"group {name!r} is locked: {group.locked}; take it out of the plan")
            if units[0] < 0 or units[-1] >= group.size:
                bad = units[0] if units[0] < 0 else units[-1]
                raise UserError(f"group {name!r}: index {bad} is out of range; it has units 0 to {group.size - 1}")
            if len(set(units)) != len(units):
                twice = next(a for a, b in pairwise(units) if a == b)
                raise UserError(f"group {name!r}: index {twice} appears twice; list each unit once")
            left = group.size - len(units)
            if left < max(group.min_channels, 1):
                raise UserError(
                    f"group {name!r}: {left} of {group.size} units would be left; "
                    f"at least {max(group.min_channels, 1)} must stay (min_channels)"
                )
            if left % max(group.round_to, 1):
                raise UserError(
                    f"group {name!r}: {left} units would be left, not a multiple of {group.round_to} (round_to); "
                    f"remove {group.allowed(len(units))} instead of {len(units)}"
                )

    def then(self, later: PruningPlan, groups: Groups) -> PruningPlan:
        """This plan followed by one that is numbered in `groups.after(self)`, as one plan numbered in `groups`."""
        removed: dict[str, list[int]] = {name: list(units) for name, units in self._removed.items()}
        for name, units in later.removed.items():
            group = groups[name]
            gone = set(self._removed.get(name, ()))
            left = [unit for unit in range(group.size) if unit not in gone]
            if units[0] < 0 or units[-1] >= len(left):
                raise UserError(f"group {name!r}: index {units[-1]} is out of range; {len(left)} units are left")
            removed.setdefault(name, []).extend(left[unit] for unit in units)
        return PruningPlan(removed)

    def to_json(self) -> dict[str, list[int]]:
        """Group name -> list of indices."""
        return {name: list(units) for name, units in self._removed.items()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> PruningPlan:
        """The plan that `to_json` wrote."""
        return cls(data)

    def __bool__(self) -> bool:
        return bool(self._removed)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PruningPlan) and dict(self._removed) == dict(other._removed)

    def __hash__(self) -> int:
        return hash(tuple(self._removed.items()))

    def __repr__(self) -> str:
        return f"PruningPlan({dict(self._removed)})"

    def __reduce__(self) -> tuple[type[PruningPlan], tuple[dict[str, tuple[int, ...]]]]:
        return PruningPlan, (dict(self._removed),)
