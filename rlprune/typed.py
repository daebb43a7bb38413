"""Plain values from files, held against the types that dataclasses declare."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from rlprune.errors import UserError, check_known

T = TypeVar("T")
WORDS: dict[Any, str] = {int: "a whole number", float: "a number", str: "text", bool: "true or false", NoneType: "null"}
LARGEST = 2**63


def kinds_of(cls: Any) -> dict[str, Any]:
    """Types of a dataclass's fields by name; of the fields alone, since other names may need imports."""
    return _kinds(cls)


@cache
def _kinds(cls: Any) -> dict[str, Any]:
    rows = {item.name: item.type for item in fields(cls)}
    return get_type_hints(type("Kinds", (), {"__annotations__": rows, "__module__": cls.__module__}))


def from_table(cls: type[T], content: Any, what: str) -> T:
    """A dataclass from a table of its fields, each of its type; lists become tuples where those are declared.

    Raises:
        UserError: For an entry that is unknown, missing or of another type; names it, and `what` it is part of.
    """
    kinds = kinds_of(cls)
    content = checked(Mapping[str, Any], content, what)
    for name in content:
        check_known(f"entry of {what}", name, kinds)
    for item in fields(cls):  # type: ignore[arg-type]
        if item.name not in content and item.default is MISSING and item.default_factory is MISSING:
            raise UserError(f"{what} has no {item.name!r}")
    return cls(**{name: checked(kinds[name], value, f"{what}: {name}") for name, value in content.items()})


def check_table(cls: Any, content: Mapping[str, Any], what: str) -> None:
    """Raise UserError if an entry that is named like a field of a dataclass is not of its type."""
    kinds = kinds_of(cls)
    for name, value in content.items():
        if name in kinds:
            checked(kinds[name], value, f"{what}: {name}")


def check_fields(row: Any) -> None:
    """Raise UserError if a field of a dataclass's instance is not of the type that is declared."""
    kinds = kinds_of(type(row))
    for item in fields(row):
        checked(kinds[item.name], getattr(row, item.name), item.name)


def as_table(row: Any) -> dict[str, Any]:
    """A dataclass's fields, and what they hold, as JSON gives them back: what `from_table` reads."""
    return {item.name: _plain(getattr(row, item.name)) for item in fields(row)}


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return as_table(value)
    if isinstance(value, Mapping):
        return {name: _plain(entry) for name, entry in value.items()}
    return [_plain(entry) for entry in value] if isinstance(value, (list, tuple)) else value


def checked(kind: Any, value: Any, place: str) -> Any:
    """A value of plain types as the type `kind`; raises UserError that names the place, and what was expected there."""
    found = _as(kind, value, place)
    if found is MISSING:
        raise UserError(f"{place} is {_short(value)}; it must be {words(kind)}")
    return found


def words(kind: Any) -> str:
    """A type in words.

    >>> words(tuple[int, ...]), words(str | None)
    ('a list', 'text or null')
    """
    origin, parts = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return " or ".join(dict.fromkeys(words(part) for part in parts))
    if origin is Literal:
        return " or ".join(map(repr, parts))
    if origin is not None or is_dataclass(kind):
        return "a list" if origin in (tuple, list) else "a table"
    return WORDS.get(kind) or str(getattr(kind, "__name__", kind))


def _as(kind: Any, value: Any, place: str) -> Any:
    """The value, or MISSING."""
    if kind is Any:
        return value
    origin, parts = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return next((found for part in parts if (found := _as(part, value, place)) is not MISSING), MISSING)
    if origin is Literal:
        return value if value in parts else MISSING
    if origin in (tuple, list):
        return _sequence(origin, parts, value, place)
    if is_dataclass(kind) and isinstance(value, Mapping):
        return from_table(kind, value, place)  # type: ignore[arg-type]
    if isinstance(origin, type) and issubclass(origin, Mapping):
        if not isinstance(value, Mapping) or not all(isinstance(key, parts[0]) for key in value):
            return MISSING
        return {key: checked(parts[1], entry, f"{place}: {key}") for key, entry in value.items()}
    if kind is float:
        right = isinstance(value, Real) and not isinstance(value, bool)
        return value if right and (isinstance(value, float) or abs(value) < LARGEST) else MISSING
    if kind is int:
        right = isinstance(value, Integral) and not isinstance(value, bool)
        return value if right and abs(int(value)) < LARGEST else MISSING
    return value if not isinstance(kind, type) or isinstance(value, kind) else MISSING


def _sequence(origin: Any, parts: tuple[Any, ...], value: Any, place: str) -> Any:
    if not isinstance(value, (list, tuple)):
        return MISSING
    each: Iterable[Any] = parts if origin is tuple and parts[-1] is not Ellipsis else [parts[0]] * len(value)
    if len(list(each)) != len(value):
        return MISSING
    return origin(checked(kind, entry, place) for kind, entry in zip(each, value, strict=True))


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:40]}…"
