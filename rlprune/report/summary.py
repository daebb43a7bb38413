"""What a run ends with on the screen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rlprune.report.tables import count, print_table, say
from rlprune.report.units import Unit

if TYPE_CHECKING:
    from rich.console import Console

STOPPED = {
    "tolerance": "the next removal left the tolerance and was rolled back",
    "budget": "the MACs target is met",
    "nothing left": "every group is at its minimum",
    "nothing removed": "the controller found nothing more to remove",
    "one round": "the one round is over",
    "rounds": "the limit of rounds is reached",
}


def print_summary(record: Mapping[str, Any], console: Console) -> None:
    """Print before, after and the difference: scores with intervals, cost, latency, and the width of every group."""
    before, after = record["baseline"], record["pruned"]
    unit = Unit.of(before)
    rows = [
        (
            f"{split} (n={before[f'{split}_size']:,})" if before.get(f"{split}_size") else split,
            *(_score(side, split, unit) for side in (before, after)),
            f"drop {unit.number(before[f'{split}_score'] - after[f'{split}_score'])}",
        )
        for split in ("control", "test")
        if before.get(f"{split}_score") is not None
    ]
    for key, label in (("macs", "MACs"), ("parameters", "parameters")):
        rows.append((label, count(before[key]), count(after[key]), _times(before[key], after[key])))
    latency = record.get("latency")
    if latency:
        slow, fast = latency["baseline"], latency["pruned"]
        times = (_milliseconds(slow), _milliseconds(fast), _times(slow["median_s"], fast["median_s"]))
        rows.append((f"ms, {latency_setting(latency)}", *times))
    name = f"{record['model']} on {record['data']['name']}: {unit.label}"
    intervals = ", with 95 % intervals" if before.get("control_interval") else ""
    print_table(console, ("", "before", "after", "change"), rows, title=f"{name}{intervals}")
    widths = [
        (line["name"], str(line["before"]), str(line["after"]), f"{100 * (1 - line['after'] / line['before']):.0f} %")
        for line in record["widths"]
    ]
    print_table(console, ("group", "before", "after", "removed"), widths, title="\nfilters per group")
    say(console, "\n" + verdict(record, unit).replace(". Stopped", ".\nStopped"))


def verdict(record: Mapping[str, Any], unit: Unit) -> str:
    """In a sentence or two, whether the tolerance is kept, and why the run stopped."""
    drop, tolerance = record["drop"], record["tolerance"]
    kept = ""
    if unit.limits(tolerance):
        within = "within" if drop <= tolerance else "OUTSIDE"
        kept = f", {within} the tolerance of {unit.number(tolerance)}"
        if (sure := record["pruned"].get("certainty")) is not None:
            kept += f", inside on other images like these with {100 * sure:.0f} %"
    stopped = STOPPED.get(record["stopped"], record["stopped"])
    return f"Control drop {unit.difference(drop)}{kept}. Stopped: {stopped}."


def describe_scores(found: Mapping[str, Any]) -> str:
    """Scores of one network on test and control, and its cost where that is known, a line each."""
    unit, lines = Unit.of(found), []
    for name in ("test", "control"):
        bounds = unit.interval(found.get(f"{name}_interval"))
        text = f"{name:10} {unit.score(found[f'{name}_score'])} {bounds}".rstrip()
        lines.append(f"{text}, {unit.metric} on {found[f'{name}_size']:,} examples")
    lines += [
        f"{label:10} {found[key]:,}" for key, label in (("macs", "MACs"), ("parameters", "parameters")) if key in found
    ]
    return "\n".join(lines)


def near_chance(metric: str, score: float, classes: int) -> str | None:
    """A hint if a baseline looks like images that were normalised otherwise than in training, else None."""
    if metric != "accuracy" or classes < 2 or score > 1.5 / classes:
        return None
    return (
        f"the baseline of {100 * score:.1f} % is near chance (1 in {classes}): if these weights are trained, the "
        "images may be normalised in another way; try --normalise from-weights, none, imagenet, or MEAN:STD"
    )


def latency_setting(latency: Mapping[str, Any]) -> str:
    """What a latency was measured with, as in `batch of 1, 2 threads, other work beside it`."""
    threads = latency.get("threads", 1)
    words = [f"batch of {latency.get('batch', 1)}", f"{threads} thread{'s' if threads != 1 else ''}"]
    return ", ".join([*words, *(["other work beside it"] if latency.get("parallel") else [])])


def _score(side: Mapping[str, Any], split: str, unit: Unit) -> str:
    return f"{unit.number(side[f'{split}_score'])} {unit.interval(side.get(f'{split}_interval'))}".rstrip()


def _milliseconds(value: Mapping[str, float]) -> str:
    return f"{1000 * value['median_s']:.2f} ± {500 * value['iqr_s']:.2f}"


def _times(before: float, after: float) -> str:
    return f"{before / after:.2f}× less" if after <= before else f"{after / before:.2f}× more"
