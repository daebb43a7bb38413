"""What a model returned, however it is nested: tensors by name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import torch


def children(whole: Any) -> dict[str, Any]:
    """The parts of a mapping, dataclass, named tuple, tuple or list by name or place; of an object its `logits`."""
    if isinstance(whole, Mapping):
        return {str(key): value for key, value in whole.items()}
    if is_dataclass(whole) and not isinstance(whole, type):
        return {item.name: getattr(whole, item.name) for item in fields(whole)}
    if hasattr(whole, "_fields"):
        return dict(zip(whole._fields, whole, strict=True))
    if isinstance(whole, (tuple, list)):
        return {str(place): value for place, value in enumerate(whole)}
    return {"logits": whole.logits} if hasattr(whole, "logits") else {}


def tensors(whole: Any, name: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    """Every tensor in it, with its name; of one inside another part the names are joined by points.

    >>> [name for name, _ in tensors({"boxes": torch.ones(2), "more": [torch.ones(2)]})]
    ['boxes', 'more.0']
    """
    if isinstance(whole, torch.Tensor):
        yield name, whole
    for key, value in children(whole).items():
        yield from tensors(value, f"{name}.{key}" if name else key)


def part(whole: Any, name: str) -> Any:
    """The part of a name as `tensors` gives it, or of its place in a tuple; None if there is none."""
    inside = children(whole)
    if name in inside:
        return inside[name]
    if name.isdigit() and isinstance(whole, tuple) and int(name) < len(whole):
        return whole[int(name)]
    first, point, rest = name.partition(".")
    return part(inside[first], rest) if point and first in inside else None
