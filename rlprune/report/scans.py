"""A sensitivity scan as a picture and as a table."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from rlprune.report import plots
from rlprune.report.tables import print_table
from rlprune.report.units import Unit

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.console import Console

    from rlprune.scoring.sensitivity import Sensitivity

LABELLED = 5  # curves that carry their group's name; more cannot be told apart


def draw_scan(found: Sensitivity, title: str = "", unit: Unit | None = None) -> Figure:
    """Drops of all groups: a heat map with a row a group in execution order, and a curve a group by depth."""
    from matplotlib import colormaps

    unit = unit or Unit()
    names = list(found.scores)
    drops = unit.factor * np.array([found.drops(name) for name in names]).reshape(len(names), len(found.rates))
    percents = [100 * rate for rate in found.rates]
    figure = plots.blank(11, max(4.2, 1.4 + 0.22 * len(names)))
    heat, curves = figure.subplots(1, 2, width_ratios=(1.15, 1))
    least = 1.0 if unit.percent else 1e-9
    image = heat.imshow(np.maximum(drops, 0), aspect="auto", cmap="Reds", vmin=0, vmax=max(least, float(drops.max())))
    heat.set_xticks(range(len(percents)), [f"{percent:g}" for percent in percents])
    heat.set_yticks(range(len(names)), names, fontsize=8)
    heat.set_xlabel("filters removed (%)")
    for row, line in enumerate(drops):
        for column, drop in enumerate(line):
            dark = drop > 0.6 * image.norm.vmax
            text = f"{drop:.2g}" if not unit.percent else f"{drop:.1f}" if abs(drop) < 9.95 else f"{drop:.0f}"
            heat.text(column, row, text, ha="center", va="center", fontsize=6, color="white" if dark else "#333")
    heat.set_title(f"drop of the score ({unit.differences})", fontsize=10)
    shades = colormaps["viridis"](np.linspace(0, 0.92, max(len(names), 2)))
    harmful = found.order()[:LABELLED]
    for name, line, shade in zip(names, drops, shades, strict=False):
        label = name if name in harmful else None
        curves.plot([0, *percents], [0, *line], color=shade, linewidth=2 if label else 1, marker=".", label=label)
    curves.set_xlabel("filters removed (%)")
    curves.set_ylabel(f"drop ({unit.differences})")
    curves.set_title("a curve a group, from the first (dark) to the last (light)", fontsize=10)
    curves.spines[["top", "right"]].set_visible(False)
    curves.grid(axis="y", color="#dde2e9")
    if names:
        curves.legend(frameon=False, fontsize=8, title="most sensitive", title_fontsize=8)
    figure.suptitle(title, fontsize=11)
    return figure


def print_scan(found: Sensitivity, console: Console, unit: Unit | None = None) -> None:
    """The drops, the most sensitive group first."""
    unit = unit or Unit()
    heads = ("group", *(f"{100 * rate:g} %" for rate in found.rates))
    rows = [
        (name, *(f"{100 * d:.1f}" if unit.percent else f"{d:.3g}" for d in found.drops(name))) for name in found.order()
    ]
    title = f"baseline {unit.score(found.baseline)}; drops in {unit.differences} by share of filters removed"
    print_table(console, heads, rows, title=title)
