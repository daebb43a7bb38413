"""Pictures of a run, as files; drawn without a display."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlprune.files import write_bytes
from rlprune.report.units import Unit

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BEFORE, AFTER, ACCENT = "#c9ced6", "#2563eb", "#d97706"


def blank(width: float, height: float, dots: int = 120) -> Figure:
    """An empty figure of this size in inches, with so many dots an inch."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=dots, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def bars(axes: Axes, layers: Sequence[Mapping[str, Any]], colour: str = AFTER) -> None:
    """A pale bar for every group's width before and a coloured one after; by doublings, so that narrow ones show."""
    axes.bar(range(len(layers)), [layer["before"] for layer in layers], color=BEFORE, label="before")
    axes.bar(range(len(layers)), [layer["after"] for layer in layers], color=colour, width=0.5, label="after")
    axes.set_yscale("log", base=2)
    axes.set_ylim(bottom=0.5)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_ylabel("filters")
    axes.spines[["top", "right"]].set_visible(False)


def name_groups(axes: Axes, layers: Sequence[Mapping[str, Any]]) -> None:
    """The groups' names below their bars."""
    axes.set_xticks(range(len(layers)), [layer["name"] for layer in layers], rotation=60, ha="right", fontsize=8)


def widths(layers: Sequence[dict[str, Any]], title: str = "") -> Figure:
    """Bars of every group's width before and after pruning.

    Args:
        layers: Dicts with `name`, `before`, `after`.
        title: Heading of the picture.
    """
    figure = blank(max(5.0, 0.32 * len(layers) + 2), 4)
    axes = figure.subplots()
    bars(axes, layers)
    name_groups(axes, layers)
    axes.set_title(title, fontsize=10)
    axes.legend(frameon=False)
    return figure


def rounds(
    history: Sequence[dict[str, Any]], tolerance: float | None, base_macs: int, unit: Unit | None = None
) -> Figure:
    """Drop against the tolerance, and the MACs left, round by round."""
    unit = unit or Unit()
    figure = blank(6, 3.6)
    axes = figure.subplots()
    numbers = [line["round"] for line in history]
    axes.plot(numbers, [100 * line["macs"] / base_macs for line in history], color=AFTER, marker="o", label="MACs left")
    axes.set_xlabel("round")
    axes.set_ylabel("MACs left (%)", color=AFTER)
    axes.set_ylim(bottom=0)
    drops = axes.twinx()
    drops.plot(numbers, [unit.factor * line["drop"] for line in history], color=ACCENT, marker="o", label="drop")
    label = f"drop ({unit.differences})"
    if tolerance is not None and unit.limits(tolerance):
        drops.axhline(unit.factor * tolerance, color=ACCENT, linestyle="--", linewidth=1)
        label += "; dashed: tolerance"
    drops.set_ylabel(label, color=ACCENT)
    return figure


def save(figure: Figure, path: Path) -> None:
    """Write a figure; the ending of the name chooses the format."""
    from matplotlib.text import Text

    buffer = io.BytesIO()
    for text in figure.findobj(Text):
        text.set_parse_math(False)  # a dollar in a name is no formula
    figure.savefig(buffer, format=path.suffix[1:])
    write_bytes(path, buffer.getbuffer())
