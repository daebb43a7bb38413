"""The table a run ends with."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

STOPPED = {
    "tolerance": "Stopped: the next removal left the tolerance and was rolled back.",
    "budget": "Stopped: the MACs target is met.",
    "nothing left": "Stopped: every group is at its minimum.",
    "nothing removed": "Stopped: the controller found nothing more to remove.",
    "one round": "Stopped: the one round is over.",
    "rounds": "Stopped: the limit of rounds is reached.",
}


def print_summary(record: dict[str, Any], console: Console) -> None:
    """Print before, after and the difference: scores with intervals, cost, latency, and the width of every group."""
    before, after = record["baseline"], record["pruned"]
    table = Table(
        title=f"{record['model']} on {record['data']['name']}: {before['metric']} in %, with 95 % intervals",
        title_justify="left",
    )
    for column in ("", "before", "after", "change"):
        table.add_column(column, justify="left" if not column else "right")
    for split in ("control", "test"):
        drop = before[f"{split}_score"] - after[f"{split}_score"]
        label = f"{split} (n={before[f'{split}_size']:,})"
        table.add_row(label, _score(before, split), _score(after, split), f"drop {100 * drop:.2f}")
    for key, label in (("macs", "MACs"), ("parameters", "parameters")):
        table.add_row(label, _count(before[key]), _count(after[key]), _times(before[key], after[key]))
    latency = record["latency"]
    slow, fast = latency["baseline"], latency["pruned"]
    table.add_row(
        f"ms, {latency['threads']} thread(s)",
        _latency(slow),
        _latency(fast),
        _times(slow["median_s"], fast["median_s"]),
    )
    console.print(table)
    console.print(_widths(record["widths"]))
    within = "within" if record["drop"] <= record["tolerance"] else "OUTSIDE"
    stopped = STOPPED.get(record["stopped"], f"Stopped: {record['stopped']}.")
    console.print(
        f"Control drop {100 * record['drop']:.2f} points, {within} the tolerance of {100 * record['tolerance']:.2f}. "
        f"{stopped}",
        highlight=False,
    )


def _widths(layers: list[dict[str, Any]]) -> Table:
    table = Table(title="filters per group", title_justify="left")
    for column in ("group", "before", "after", "removed"):
        table.add_column(column, justify="left" if column == "group" else "right")
    for layer in layers:
        removed = 1 - layer["after"] / layer["before"]
        table.add_row(layer["name"], str(layer["before"]), str(layer["after"]), f"{100 * removed:.0f} %")
    return table


def _score(side: dict[str, Any], split: str) -> str:
    low, high = side[f"{split}_interval"]
    return f"{100 * side[f'{split}_score']:.2f} [{100 * low:.2f}, {100 * high:.2f}]"


def _latency(value: dict[str, float]) -> str:
    return f"{1000 * value['median_s']:.2f} ± {500 * value['iqr_s']:.2f}"


def _times(before: float, after: float) -> str:
    return f"{before / after:.2f}× less" if after <= before else f"{after / before:.2f}× more"


def _count(value: int) -> str:
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.2f} {unit}"
    return str(value)
