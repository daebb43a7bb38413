"""Options of the command line made from settings: a dataclass's fields, with its docstring as the help."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

    from rlprune.spec import ProblemSpec


def console(*, stderr: bool = False) -> Console:
    """Where to print."""
    from rich.console import Console

    return Console(stderr=stderr)


def field_options(
    group: argparse._ArgumentGroup, cls: Any, prefix: str = "", skip: Sequence[str] = (), defaults: Any = None
) -> None:
    """An option for every field of a dataclass; its docstring is the help, `defaults` an instance to tell of."""
    assert is_dataclass(cls)
    notes = _field_notes(cls)
    for field in fields(cls):
        kind = str(field.type)
        if field.name in skip or kind.startswith("Mapping"):
            continue
        flag = f"--{prefix}{field.name}".replace("_", "-")
        dest = f"{prefix}{field.name}".replace("-", "_")
        default = field.default if defaults is None else getattr(defaults, field.name)
        text = f"{notes.get(field.name, '')} (default: {default})".replace("%", "%%")
        if kind == "bool":
            group.add_argument(flag, dest=dest, action=argparse.BooleanOptionalAction, help=text)
        elif kind.startswith("tuple"):
            group.add_argument(
                flag, dest=dest, type=_listed(float if "float" in kind else str), metavar="A,B", help=text
            )
        else:
            number = int if kind.startswith("int") else float if kind.startswith("float") else str
            metavar = {int: "N", float: "X", str: "NAME"}[number]
            read = _optional(number) if kind.endswith("| None") and number is not str else number
            group.add_argument(flag, dest=dest, type=read, metavar=metavar, help=text)


def _listed(item: Callable[[str], Any]) -> Callable[[str], tuple[Any, ...]]:
    """What reads `a,b,c`; `none` is the empty list."""

    def values(text: str) -> tuple[Any, ...]:
        return () if text == "none" else tuple(item(part) for part in text.split(","))

    return values


def _optional(item: Callable[[str], Any]) -> Callable[[str], Any]:
    """What reads a value; `none` is None."""

    def value(text: str) -> Any:
        return None if text == "none" else item(text)

    value.__name__ = getattr(item, "__name__", "value")  # argparse names it when the text is no such thing
    return value


def given_fields(args: argparse.Namespace, cls: Any, prefix: str = "") -> dict[str, Any]:
    """The fields of a dataclass for which an option was given."""
    dests = {field.name: f"{prefix}{field.name}".replace("-", "_") for field in fields(cls)}
    return {name: getattr(args, dest) for name, dest in dests.items() if hasattr(args, dest)}


def _field_notes(cls: Any) -> dict[str, str]:
    """Field name -> its text in the class docstring's `Attributes` section."""
    notes: dict[str, str] = {}
    name = None
    for line in (cls.__doc__ or "").partition("Attributes:")[2].splitlines():
        head, colon, rest = line.strip().partition(": ")
        if colon and head.isidentifier() and line.startswith(" " * 8) and not line.startswith(" " * 9):
            name, notes[head] = head, rest
        elif name and line.strip():
            notes[name] += f" {line.strip()}"
    return notes


def problem_options(parser: argparse.ArgumentParser) -> None:
    """The options that say which network and which data."""
    from rlprune.spec import ProblemSpec

    group = parser.add_argument_group("network and data")
    field_options(group, ProblemSpec, skip=("keep", "seed"))
    group.add_argument("--keep", action="append", metavar="PATTERN", help="never prune layers of this name; repeatable")
    group.add_argument("--seed", type=int, metavar="N", help="seed of everything random (default: 0)")


def problem_spec(args: argparse.Namespace, start: ProblemSpec | None = None) -> ProblemSpec:
    """`start` (or the defaults), changed by the options that were given."""
    from rlprune.spec import ProblemSpec

    given = given_fields(args, ProblemSpec)
    if "keep" in given:
        given["keep"] = tuple(given["keep"])
    return replace(start or ProblemSpec(), **given)


def run_options(parser: argparse.ArgumentParser) -> None:
    """The options of everything that writes a run folder."""
    group = parser.add_argument_group("run")
    group.add_argument("--out", metavar="DIR", help="run folder (default: a new one under runs/)")
    group.add_argument(
        "--resume",
        action="store_true",
        help="go on with the run in --out; prune finds the newest unfinished one itself",
    )
    group.add_argument("--quiet", action="store_true", help="no progress, no table")
    group.add_argument("--json", action="store_true", help="print the record as JSON")
