"""What methods there are, and the constants of each, as the options that change them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from rlprune.agents import PruneSettings


def constants(settings: PruneSettings, rule: Any) -> dict[str, Any]:
    """Option -> value for everything that makes up a method but its network and data.

    Args:
        settings: The method's recipe.
        rule: The class of its controller.
    """
    skip = ("problem", "method", "controller_options", "finetune")
    found = {f.name: getattr(settings, f.name) for f in fields(settings) if f.name not in skip}
    for f in fields(rule):
        if f.default is not MISSING:
            found[f"{settings.controller}-{f.name}"] = settings.controller_options.get(f.name, f.default)
    found |= {f"finetune-{f.name}": getattr(settings.finetune, f.name) for f in fields(settings.finetune)}
    plain = {name: list(value) if isinstance(value, tuple) else value for name, value in found.items()}
    return {"--" + name.replace("_", "-"): value for name, value in plain.items()}


def print_methods(summaries: Mapping[str, str], console: Console) -> None:
    """A line for each method."""
    table = Table(box=None, show_header=False)
    for name, summary in summaries.items():
        table.add_row(name, summary)
    console.print(table)


def print_constants(name: str, summary: str, options: Mapping[str, Any], console: Console) -> None:
    """A line for each option of `rlprune prune --method NAME`, with the method's value."""
    console.print(f"{name}: {summary}", highlight=False)
    table = Table("option", "value")
    for option, value in options.items():
        table.add_row(option, "" if value in (None, [], "") else str(value))
    console.print(table)
