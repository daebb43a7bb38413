"""The report's figures as files (PNG, SVG) and in TensorBoard: the same content, drawn with matplotlib."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rlprune.errors import check_known
from rlprune.report import plots
from rlprune.report.scans import draw_scan
from rlprune.report.statistics import grouped
from rlprune.report.units import Unit
from rlprune.scoring.sensitivity import Sensitivity

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = (
    "#2a6fdb", "#c8590a", "#12805c", "#a83fa0", "#8a6d00", "#5b50c9", "#c22f3d", "#3f7f93", "#7a4b2a", "#5f6b78",
)  # fmt: skip
MARKERS = "os^DvPh"
FORMATS = ("png", "svg")
Content = Mapping[str, Any]
Cell = Mapping[str, Any]
Styles = Mapping[str, Mapping[str, Any]]


def draw_figures(content: Content) -> dict[str, Figure]:
    """Every figure of the report by name; those for which the content has nothing are left out."""
    names = list(dict.fromkeys(cell["controller"] for cell in content["cells"]))
    styles = {
        name: {"color": COLOURS[i % len(COLOURS)], "marker": MARKERS[i % len(MARKERS)]} for i, name in enumerate(names)
    }
    figures: dict[str, Figure] = {}
    for number, problem in enumerate(content["problems"]):
        cells = [cell for cell in content["cells"] if cell["problem"] == number and cell["stages"]]
        if not cells:
            continue
        title, unit = f"{problem['model']} on {problem['data']}", Unit.of(problem)
        name = "".join(c if c.isalnum() else "-" for c in f"{problem['model']}-{problem['data']}").strip("-")
        suffix = f"-{name}" if len(content["problems"]) > 1 else ""
        key = (problem["model"], problem["data"])
        tables = [t for t in (content["analysis"] or {"settings": ()})["settings"] if (t["model"], t["data"]) == key]
        drawn = {
            "scores": scores(problem, cells, styles),
            "standings": standings(tables, styles) if tables else None,
            "progress": progress(cells, styles, unit),
            "drops": drops(cells, styles, unit),
            "widths": widths(cells, styles, unit),
            "rewards": rewards(cells, styles, unit),
        }
        for name, figure in drawn.items():
            if figure is not None:
                figure.suptitle(title, fontsize=10)
                figures[f"{name}{suffix}"] = figure
    if content["sensitivity"]:
        found = content["sensitivity"]
        scan = dict(zip(found["groups"], found["scores"], strict=True))
        unit = Unit.of(content["problems"][0]) if content["problems"] else Unit()
        figures["sensitivity"] = draw_scan(Sensitivity({}, found["baseline"], tuple(found["rates"]), scan), unit=unit)
    return figures


def write_figures(content: Content, folder: Path, formats: Iterable[str] = FORMATS) -> list[Path]:
    """Write every figure into `folder` in every format, whole; returns the files.

    Raises:
        UserError: For an unknown format.
    """
    for form in formats:
        check_known("figure format", form, FORMATS)
    files = []
    for name, figure in draw_figures(content).items():
        for form in formats:
            files.append(folder / f"{name}.{form}")
            plots.save(figure, files[-1])
    return files


def write_events(content: Content, folder: Path) -> None:
    """Put the figures, and every cell's numbers, into TensorBoard events in `folder`, replacing what was there."""
    from matplotlib.image import imread
    from torch.utils.tensorboard import SummaryWriter

    shutil.rmtree(folder, ignore_errors=True)
    with SummaryWriter(str(folder)) as writer:
        for name, figure in draw_figures(content).items():
            buffer = io.BytesIO()
            figure.savefig(buffer, format="png")
            buffer.seek(0)
            writer.add_image(f"report/{name}", np.asarray(imread(buffer))[..., :3], dataformats="HWC")
        for cell in content["cells"]:
            for stage, found in cell["stages"].items():
                tag = f"{cell['controller']}/{cell['goal']['kind']} {cell['goal']['value']:g}"
                if "test_score" in found:
                    writer.add_scalar(f"{tag}/{stage} test score", found["test_score"], cell["seed"])
                writer.add_scalar(f"{tag}/{stage} MACs left", cell["macs_left"], cell["seed"])


def scores(problem: Mapping[str, Any], cells: Sequence[Cell], styles: Styles) -> Figure:
    """Test score against MACs, with the Pareto front; the networks as they end (fine-tuned if they were)."""
    figure, unit = plots.blank(7, 4.4), Unit.of(problem)
    axes = figure.subplots()
    stage = "finetune" if any("finetune" in cell["stages"] for cell in cells) else "prune"
    split = "test" if "test_score" in problem else "control"  # a run on one's own data may have no test split
    shown = [cell for cell in cells if stage in cell["stages"]]

    def place(cell: Cell) -> tuple[float, float]:
        figures = cell["stages"][stage]
        return 100 * figures["macs"] / problem["macs"], unit.factor * figures[f"{split}_score"]

    for cell in shown:
        axes.plot(*place(cell), **styles[cell["controller"]], markersize=4, alpha=0.5, linestyle="none")
    for (name, _), members in grouped(shown, lambda cell: (cell["controller"], _goal(cell, unit))).items():
        middle = np.mean([place(cell) for cell in members], axis=0)
        axes.plot(*middle, **styles[name], markersize=9, linestyle="none", markeredgecolor="white")
    front = sorted(place(cell) for cell in shown if cell["front"].get(f"{stage}_{split}"))
    if front:
        axes.step(*zip(*front, strict=True), where="post", color="#5a6675", linestyle="--", linewidth=1, zorder=0)
    axes.plot(100, unit.factor * problem[f"{split}_score"], "D", color="white", markeredgecolor="black", markersize=8)
    axes.set_xlim(0, 105)
    axes.set_xlabel("MACs left (%)")
    axes.set_ylabel(f"{split} {unit.label}")
    _finish(axes, styles, {cell["controller"] for cell in shown})
    return figure


def standings(tables: Sequence[Mapping[str, Any]], styles: Styles) -> Figure:
    """Mean and 95 % interval of every controller, a panel for each goal."""
    rows = max(len(table["rows"]) for table in tables)
    figure = plots.blank(max(6.0, 4.0 * len(tables)), 1.3 + 0.36 * rows)
    panels = figure.subplots(1, len(tables), squeeze=False)[0]
    for axes, table in zip(panels, tables, strict=True):
        unit = Unit(table["measure"], table.get("merit_percent", True))
        found = [row for row in table["rows"] if row["merit"]]
        for place, row in enumerate(found):
            interval = row["merit"]
            if interval["low"] is not None:
                ends = (unit.factor * interval["low"], unit.factor * interval["high"])
                axes.plot(ends, (place, place), color=styles[row["controller"]]["color"], linewidth=3, alpha=0.4)
            axes.plot(unit.factor * interval["mean"], place, **styles[row["controller"]], markersize=8)
        axes.set_yticks(range(len(found)), [row["controller"] for row in found])
        axes.invert_yaxis()
        axes.set_xlabel(unit.label)
        axes.set_title(_goal(table, Unit.of(table)), fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="x", color="#dde2e9")
    return figure


def drops(cells: Sequence[Cell], styles: Styles, unit: Unit) -> Figure | None:
    """Drop of the control score over the rounds, a panel for each goal; hollow marks were rolled back."""

    def draw(axes: Axes, members: Sequence[Cell]) -> None:
        for cell in members:
            style = styles[cell["controller"]]
            places = [(line["round"], unit.factor * line["drop"]) for line in cell["rounds"]]
            axes.plot(*zip(*places, strict=True), **style, markersize=4, linewidth=1.2)
            for place, line in zip(places, cell["rounds"], strict=True):
                if not line["accepted"]:
                    axes.plot(*place, **{**style, "color": "white"}, markeredgecolor=style["color"], markersize=5)
        tolerance = members[0]["goal"]["value"] if members[0]["goal"]["kind"] == "tolerance" else None
        if tolerance is not None and unit.limits(tolerance):
            axes.axhline(unit.factor * tolerance, color="#b3261e", linestyle="--", linewidth=1)

    shown = [cell for cell in cells if cell["rounds"]]
    return _by_goal(shown, styles, unit, draw, "round", f"drop ({unit.differences})")


def progress(cells: Sequence[Cell], styles: Styles, unit: Unit) -> Figure | None:
    """MACs left against the epochs of training spent, a line for every cell, a panel for each tolerance."""

    def draw(axes: Axes, members: Sequence[Cell]) -> None:
        for cell in members:
            spent, left = zip(*cell["curve"], strict=True)
            style = {**styles[cell["controller"]], "markersize": 4, "linewidth": 1.2}
            axes.step(spent, [100 * share for share in left], where="post", **style)
        axes.set_yscale("log")

    trained = [cell for cell in cells if cell["goal"]["kind"] == "tolerance" and cell.get("curve", [(0,)])[-1][0] > 0]
    return _by_goal(trained, styles, unit, draw, "epochs spent", "MACs left (%)")


def _by_goal(
    cells: Sequence[Cell], styles: Styles, unit: Unit, draw: Callable[[Axes, list[Cell]], None], x: str, y: str
) -> Figure | None:
    """A panel for each goal, on which `draw` puts its cells; None without cells."""
    groups = grouped(cells, lambda cell: _goal(cell, unit))
    if not groups:
        return None
    figure = plots.blank(max(6.0, 4.0 * len(groups)), 3.4)
    for axes, (goal, members) in zip(figure.subplots(1, len(groups), squeeze=False)[0], groups.items(), strict=True):
        draw(axes, members)
        axes.set(xlabel=x, ylabel=y)
        axes.set_title(goal, fontsize=10)
        _finish(axes, styles, {cell["controller"] for cell in members})
    return figure


def widths(cells: Sequence[Cell], styles: Styles, unit: Unit) -> Figure | None:
    """Filters per group before and after, a row for each controller, a column for each goal; of the first seed."""
    shown = _first_seeds([cell for cell in cells if cell["widths"]], unit)
    if not shown:
        return None
    controllers = list(dict.fromkeys(cell["controller"] for cell in shown))
    goals = list(dict.fromkeys(_goal(cell, unit) for cell in shown))
    layers = shown[0]["widths"]
    figure = plots.blank((0.2 * len(layers) + 1.6) * len(goals) + 1, 1.0 + 1.4 * len(controllers))
    panels = figure.subplots(len(controllers), len(goals), sharex=True, squeeze=False)
    for axes in panels.flat:
        axes.set_visible(False)
    for cell in shown:
        axes = panels[controllers.index(cell["controller"]), goals.index(_goal(cell, unit))]
        axes.set_visible(True)
        plots.bars(axes, cell["widths"], styles[cell["controller"]]["color"])
        axes.set_title(f"{cell['controller']}, {_goal(cell, unit)}", fontsize=8, loc="left")
        axes.tick_params(labelsize=7)
    for axes in panels[-1]:
        plots.name_groups(axes, layers)
    return figure


def rewards(cells: Sequence[Cell], styles: Styles, unit: Unit) -> Figure | None:
    """What the episode paid by term, for every controller and goal; of the first seed there is."""
    bars: list[tuple[str, float, str]] = []
    for cell in _first_seeds(cells, unit):
        totals: dict[str, float] = {}
        for line in cell["rounds"]:
            for term, value in line.get("reward_terms", {}).items():
                totals[term] = totals.get(term, 0.0) + value
        name = cell["controller"]
        bars += [
            (f"{name}, {_goal(cell, unit)}: {term}", value, styles[name]["color"]) for term, value in totals.items()
        ]
    if not bars:
        return None
    figure = plots.blank(7, 1.0 + 0.26 * len(bars))
    axes = figure.subplots()
    axes.barh(range(len(bars)), [value for _, value, _ in bars], color=[colour for *_, colour in bars])
    axes.set_yticks(range(len(bars)), [label for label, *_ in bars], fontsize=8)
    axes.invert_yaxis()
    axes.axvline(0, color="#5a6675", linewidth=1)
    axes.set_xlabel("reward")
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def _goal(cell: Mapping[str, Any], unit: Unit) -> str:
    kind, value = cell["goal"]["kind"], cell["goal"]["value"]
    if kind == "budget":
        return f"MACs budget {100 * value:.0f} %"
    return f"tolerance {unit.difference(value)}" if unit.limits(value) else "any drop"


def _first_seeds(cells: Iterable[Cell], unit: Unit) -> list[Cell]:
    groups = grouped(cells, lambda cell: (cell["controller"], _goal(cell, unit)))
    return [min(members, key=lambda cell: cell["seed"]) for members in groups.values()]


def _finish(axes: Axes, styles: Styles, names: set[str]) -> None:
    from matplotlib.lines import Line2D

    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#dde2e9")
    if len(names) > 1:
        handles = [Line2D([], [], **style, linestyle="none", label=n) for n, style in styles.items() if n in names]
        axes.legend(handles=handles, frameon=False, fontsize=8)
