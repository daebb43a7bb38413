"""What methods there are, and the constants of each, as the options that change them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rlprune.report.tables import print_table, say

if TYPE_CHECKING:
    from rich.console import Console


def print_methods(summaries: Mapping[str, str], console: Console) -> None:
    """A line for each method."""
    print_table(console, ("method", "what it does"), list(summaries.items()), left=("what it does",))


def print_constants(name: str, summary: str, options: Mapping[str, Any], console: Console) -> None:
    """A line for each option of `rlprune prune --method NAME`, with the method's value."""
    say(console, f"{name}: {summary}\n")
    rows = [(option, "" if value in (None, [], "") else str(value)) for option, value in options.items()]
    print_table(console, ("option", "value"), rows, left=("value",))
