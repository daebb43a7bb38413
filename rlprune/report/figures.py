"""The report's figures as files (PNG, SVG) and in TensorBoard: the same content, drawn with matplotlib."""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rlprune.errors import unknown_name
from rlprune.report import plots

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


def draw_figures(content: Content) -> dict[str, Figure]:
    """Every figure of the report by name; those for which the content has nothing are left out."""
    styles = _styles(content)
    figures: dict[str, Figure] = {}
    for number, problem in enumerate(content["problems"]):
        cells = [cell for cell in content["cells"] if cell["problem"] == number and cell["stages"]]
        if not cells:
            continue
        suffix = f"-{_file_name(problem)}" if len(content["problems"]) > 1 else ""
        title = f"{problem['model']} on {problem['data']}"
        figures[f"scores{suffix}"] = scores(problem, cells, styles, title)
        if content["analysis"]:
            tables = [
                table
                for table in content["analysis"]["settings"]
                if (table["model"], table["data"]) == (problem["model"], problem["data"])
            ]
            figures[f"standings{suffix}"] = standings(tables, styles, title)
        for name, draw in (("drops", drops), ("widths", widths), ("rewards", rewards)):
            figure = draw(cells, styles, title)
            if figure is not None:
                figures[f"{name}{suffix}"] = figure
    if content["sensitivity"]:
        figures["sensitivity"] = sensitivity(content["sensitivity"])
    return figures


def write_figures(content: Content, folder: Path, formats: Iterable[str] = FORMATS) -> list[Path]:
    """Write every figure into `folder` in every format, whole; returns the files.

    Raises:
        UserError: For an unknown format.
    """
    for form in formats:
        if form not in FORMATS:
            raise unknown_name("figure format", form, FORMATS)
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
                writer.add_scalar(f"{tag}/{stage} test score", found["test_score"], cell["seed"])
                writer.add_scalar(f"{tag}/{stage} MACs left", cell["macs_left"], cell["seed"])


def scores(problem: Mapping[str, Any], cells: Sequence[Cell], styles: Mapping[str, Any], title: str = "") -> Figure:
    """Test score against MACs, with the Pareto front; the networks as they end (fine-tuned if they were)."""
    figure = plots.blank(7, 4.4)
    axes = figure.subplots()
    stage = "finetune" if any("finetune" in cell["stages"] for cell in cells) else "prune"
    shown = [cell for cell in cells if stage in cell["stages"]]
    for cell in shown:
        x, y = _place(cell, stage, problem)
        axes.plot(x, y, **styles[cell["controller"]], markersize=4, alpha=0.5, linestyle="none")
    for (name, _), members in _grouped(shown, lambda cell: (cell["controller"], _goal(cell["goal"]))).items():
        middle = np.mean([_place(cell, stage, problem) for cell in members], axis=0)
        axes.plot(*middle, **styles[name], markersize=9, linestyle="none", markeredgecolor="white")
    front = sorted(_place(cell, stage, problem) for cell in shown if cell["front"].get(f"{stage}_test"))
    if front:
        axes.step(*zip(*front, strict=True), where="post", color="#5a6675", linestyle="--", linewidth=1, zorder=0)
    axes.plot(100, 100 * problem["test_score"], "D", color="white", markeredgecolor="black", markersize=8)
    axes.set_xlim(0, 105)
    axes.set_xlabel("MACs left (%)")
    axes.set_ylabel(f"test {problem.get('metric', 'score')} (%)")
    _finish(axes, title, styles, {cell["controller"] for cell in shown})
    return figure


def standings(tables: Sequence[Mapping[str, Any]], styles: Mapping[str, Any], title: str = "") -> Figure:
    """Mean and 95 % interval of every controller, a panel for each goal."""
    rows = max(len(table["rows"]) for table in tables)
    figure = plots.blank(max(6.0, 4.0 * len(tables)), 1.3 + 0.36 * rows)
    panels = figure.subplots(1, len(tables), squeeze=False)[0]
    for axes, table in zip(panels, tables, strict=True):
        found = [row for row in table["rows"] if row["merit"]]
        for place, row in enumerate(found):
            interval = row["merit"]
            if interval["low"] is not None:
                ends = (100 * interval["low"], 100 * interval["high"])
                axes.plot(ends, (place, place), color=styles[row["controller"]]["color"], linewidth=3, alpha=0.4)
            axes.plot(100 * interval["mean"], place, **styles[row["controller"]], markersize=8)
        axes.set_yticks(range(len(found)), [row["controller"] for row in found])
        axes.invert_yaxis()
        axes.set_xlabel(f"{table['measure']} (%)")
        axes.set_title(_goal(table["goal"]), fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="x", color="#dde2e9")
    figure.suptitle(title, fontsize=10)
    return figure


def drops(cells: Sequence[Cell], styles: Mapping[str, Any], title: str = "") -> Figure | None:
    """Drop of the control score over the rounds, a panel for each goal; hollow marks were rolled back."""
    groups = _grouped([cell for cell in cells if cell["rounds"]], lambda cell: _goal(cell["goal"]))
    if not groups:
        return None
    figure = plots.blank(max(6.0, 4.0 * len(groups)), 3.4)
    for axes, (goal, members) in zip(figure.subplots(1, len(groups), squeeze=False)[0], groups.items(), strict=True):
        for cell in members:
            style = styles[cell["controller"]]
            numbers = [line["round"] for line in cell["rounds"]]
            values = [100 * line["drop"] for line in cell["rounds"]]
            axes.plot(numbers, values, **style, markersize=4, linewidth=1.2)
            outside = [
                (n, v) for n, v, line in zip(numbers, values, cell["rounds"], strict=True) if not line["accepted"]
            ]
            for place in outside:
                axes.plot(*place, **{**style, "color": "white"}, markeredgecolor=style["color"], markersize=5)
        if members[0]["goal"]["kind"] == "tolerance":
            axes.axhline(100 * members[0]["goal"]["value"], color="#b3261e", linestyle="--", linewidth=1)
        axes.set_xlabel("round")
        axes.set_ylabel("drop (points)")
        _finish(axes, goal, styles, {cell["controller"] for cell in members})
    figure.suptitle(title, fontsize=10)
    return figure


def widths(cells: Sequence[Cell], styles: Mapping[str, Any], title: str = "") -> Figure | None:
    """Filters per group before and after, a row for each controller, a column for each goal; of the first seed."""
    shown = _first_seeds([cell for cell in cells if cell["widths"]])
    if not shown:
        return None
    controllers = list(dict.fromkeys(cell["controller"] for cell in shown))
    goals = list(dict.fromkeys(_goal(cell["goal"]) for cell in shown))
    names = [layer["name"] for layer in shown[0]["widths"]]
    figure = plots.blank((0.2 * len(names) + 1.6) * len(goals) + 1, 1.0 + 1.4 * len(controllers))
    panels = figure.subplots(len(controllers), len(goals), sharex=True, squeeze=False)
    for axes in panels.flat:
        axes.set_visible(False)
    for cell in shown:
        axes = panels[controllers.index(cell["controller"]), goals.index(_goal(cell["goal"]))]
        axes.set_visible(True)
        places = range(len(cell["widths"]))
        axes.bar(places, [layer["before"] for layer in cell["widths"]], color=plots.BEFORE)
        axes.bar(places, [layer["after"] for layer in cell["widths"]], color=styles[cell["controller"]]["color"])
        axes.set_title(f"{cell['controller']}, {_goal(cell['goal'])}", fontsize=8, loc="left")
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=7)
    for axes in panels[-1]:
        axes.set_xticks(range(len(names)), names, rotation=60, ha="right", fontsize=7)
    figure.suptitle(title, fontsize=10)
    return figure


def rewards(cells: Sequence[Cell], styles: Mapping[str, Any], title: str = "") -> Figure | None:
    """What the episode paid by term, for every controller and goal; of the first seed there is."""
    bars: list[tuple[str, float, str]] = []
    for cell in _first_seeds(cells):
        totals: dict[str, float] = {}
        for line in cell["rounds"]:
            for term, value in line.get("reward_terms", {}).items():
                totals[term] = totals.get(term, 0.0) + value
        name = cell["controller"]
        bars += [
            (f"{name}, {_goal(cell['goal'])}: {term}", value, styles[name]["color"]) for term, value in totals.items()
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
    axes.set_title(title, fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def sensitivity(found: Mapping[str, Any]) -> Figure:
    """Drop of every group at every rate."""
    groups, rates = found["groups"], found["rates"]
    values = 100 * (found["baseline"] - np.asarray(found["scores"], dtype=float))
    figure = plots.blank(1.8 + 0.55 * len(rates), 1.2 + 0.24 * len(groups))
    axes = figure.subplots()
    image = axes.imshow(values, aspect="auto", cmap="Reds", vmin=0)
    axes.set_xticks(range(len(rates)), [f"{100 * rate:.0f}" for rate in rates])
    axes.set_yticks(range(len(groups)), groups, fontsize=8)
    axes.set_xlabel("filters removed (%)")
    figure.colorbar(image, label="drop (points)")
    return figure


def _styles(content: Content) -> dict[str, dict[str, Any]]:
    names = list(dict.fromkeys(cell["controller"] for cell in content["cells"]))
    return {
        name: {"color": COLOURS[i % len(COLOURS)], "marker": MARKERS[i % len(MARKERS)]} for i, name in enumerate(names)
    }


def _place(cell: Cell, stage: str, problem: Mapping[str, Any]) -> tuple[float, float]:
    figures = cell["stages"][stage]
    return 100 * figures["macs"] / problem["macs"], 100 * figures["test_score"]


def _goal(goal: Mapping[str, Any]) -> str:
    if goal["kind"] == "tolerance":
        return f"tolerance {100 * goal['value']:.2f} points"
    return f"MACs budget {100 * goal['value']:.0f} %"


def _grouped(cells: Iterable[Cell], key: Any) -> dict[Any, list[Cell]]:
    groups: dict[Any, list[Cell]] = {}
    for cell in cells:
        groups.setdefault(key(cell), []).append(cell)
    return groups


def _first_seeds(cells: Iterable[Cell]) -> list[Cell]:
    groups = _grouped(cells, lambda cell: (cell["controller"], _goal(cell["goal"])))
    return [min(members, key=lambda cell: cell["seed"]) for members in groups.values()]


def _finish(axes: Axes, title: str, styles: Mapping[str, Any], names: set[str]) -> None:
    axes.set_title(title, fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#dde2e9")
    if len(names) > 1:
        axes.legend(handles=list(_handles(styles, names)), frameon=False, fontsize=8)


def _handles(styles: Mapping[str, Any], names: set[str]) -> Iterator[Any]:
    from matplotlib.lines import Line2D

    for name, style in styles.items():
        if name in names:
            yield Line2D([], [], **style, linestyle="none", label=name)


def _file_name(problem: Mapping[str, Any]) -> str:
    return "".join(c if c.isalnum() else "-" for c in f"{problem['model']}-{problem['data']}").strip("-")
