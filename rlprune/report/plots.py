"""Pictures of a run, as files; drawn without a display."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlprune.files import write_whole

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BEFORE, AFTER, ACCENT = "#c9ced6", "#2563eb", "#d97706"


def blank(width: float, height: float, dots: int = 120) -> Figure:
    """An empty figure of this size in inches, with so many dots an inch."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=dots, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def widths(layers: Sequence[dict[str, Any]], title: str = "") -> Figure:
    """Bars of every group's width before and after pruning.

    Args:
        layers: Dicts with `name`, `before`, `after`.
        title: Heading of the picture.
    """
    figure = blank(max(5.0, 0.32 * len(layers) + 2), 4)
    axes = figure.subplots()
    positions = range(len(layers))
    axes.bar(positions, [layer["before"] for layer in layers], color=BEFORE, label="before")
    axes.bar(positions, [layer["after"] for layer in layers], color=AFTER, width=0.5, label="after")
    axes.set_xticks(list(positions), [layer["name"] for layer in layers], rotation=60, ha="right", fontsize=8)
    axes.set_ylabel("filters")
    axes.set_title(title, fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    return figure


def rounds(history: Sequence[dict[str, Any]], tolerance: float, base_macs: int) -> Figure:
    """Drop against the tolerance, and the MACs left, round by round."""
    figure = blank(6, 3.6)
    axes = figure.subplots()
    numbers = [line["round"] for line in history]
    axes.plot(numbers, [100 * line["macs"] / base_macs for line in history], color=AFTER, marker="o", label="MACs left")
    axes.set_xlabel("round")
    axes.set_ylabel("MACs left (%)", color=AFTER)
    axes.set_ylim(bottom=0)
    drops = axes.twinx()
    drops.plot(numbers, [100 * line["drop"] for line in history], color=ACCENT, marker="o", label="drop")
    drops.axhline(100 * tolerance, color=ACCENT, linestyle="--", linewidth=1)
    drops.set_ylabel("drop (points); dashed: tolerance", color=ACCENT)
    return figure


def save(figure: Figure, path: Path) -> None:
    """Write a figure; the ending of the name chooses the format."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format=path.suffix[1:])
    write_whole(path, lambda file: file.write(buffer.getbuffer()))
