"""What `compare` prints: a table for each setting, the ranks, and what is too close to call."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rlprune.report.summary import describe_followed
from rlprune.report.tables import count, print_table, say
from rlprune.report.units import Unit

if TYPE_CHECKING:
    from rich.console import Console


def print_comparison(analysis: Mapping[str, Any], console: Console) -> None:
    """Print the analysis of a comparison; networks scored and images trained are means."""
    for found in analysis["settings"]:
        _print_setting(found, analysis["baseline"], console)
    for warning in analysis["warnings"]:
        say(console, f"Too close to call: {warning['text']}")
    if analysis["ranks"]:
        listed = ", ".join(f"{row['name']} {row['mean_rank']:.2f}" for row in analysis["ranks"])
        blocks = analysis["ranks"][0]["blocks"]
        say(console, f"Mean ranks over {blocks} settings and seeds that all of them finished: {listed}")


def _print_setting(found: Mapping[str, Any], baseline: str, console: Console) -> None:
    unit = Unit(found["measure"], found.get("merit_percent", True))
    rows = []
    for row in found["rows"]:
        against = row["against_baseline"] if row["controller"] != baseline else None
        rows.append(
            (
                row["controller"] + "".join(f" ({row[key]} {key})" for key in ("failed", "unmet") if row[key]),
                _spread(row["merit"], unit),
                _spread(against["difference"], unit, sign=True) if against else "",
                f"{100 * row['macs_left']['mean']:.1f}" if row["macs_left"] else "–",
                *(count(row[key]["mean"]) if row[key] else "–" for key in ("evaluations", "images_trained")),
                f"{row['time']['seconds']['mean']:.1f} s" if row["time"]["seconds"] else "–",
            )
        )
    goal = found["goal"]
    title = f"{found['model']} on {found['data']}, {goal['kind']} {goal['value']:g}: {unit.label}"
    heads = ("controller", "mean", f"vs {baseline}", "MACs %", "scored", "trained", "time")
    print_table(console, heads, rows, title=f"\n{title}")
    for row in found["rows"]:
        if row["followed"]:
            say(console, f"{row['controller']}: {describe_followed(row['followed'])}")
    if found["proxy"] and found["proxy"]["spearman"] is not None:
        say(console, f"rank correlation before and after fine-tuning: {found['proxy']['spearman']:.2f}")


def _spread(interval: Mapping[str, Any] | None, unit: Unit, *, sign: bool = False) -> str:
    if interval is None:
        return "–"
    middle = unit.number(interval["mean"], sign=sign)
    return middle if interval["low"] is None else f"{middle} ± {unit.number(interval['high'] - interval['mean'])}"
