"""What a comparison's cells say together: tables per setting, ranks over all of them, warnings, proxy quality.

A *cell* is one controller on one model, data set, goal and seed, in the plain form in which `rlprune compare` writes
it. Cells that share model, data and goal are a *setting*; within it the controllers are compared seed by seed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from rlprune.report.statistics import (
    LEVEL,
    grouped,
    images_needed,
    mean_interval,
    paired_differences,
    rank_table,
    resolution,
    spearman,
)
from rlprune.report.summary import followed_by_group
from rlprune.report.units import Unit

Cell = Mapping[str, Any]
SPENT = ("evaluations", "images_evaluated", "images_trained")
IMAGES_MOST = 10**7  # more than that are no remedy to speak of


def setting_of(cell: Cell) -> tuple[str, str, str, float]:
    """What is held fixed while controllers are compared: model, data, kind of goal and its value."""
    goal = cell["goal"]
    return cell["problem"]["model"], cell["problem"]["data"], goal["kind"], goal["value"]


def final_stage(cell: Cell) -> Mapping[str, Any]:
    """The figures of the network a cell ends with: fine-tuned if it was, else as it was pruned."""
    stages: Mapping[str, Any] = cell["stages"]
    figures: Mapping[str, Any] = stages["finetune" if _ended(cell, "finetune") else "prune"]["pruned"]
    return figures


def macs_left(cell: Cell) -> float:
    """Fraction of the unpruned network's MACs that the cell's network has; all where nothing could be removed."""
    if came_back_whole(cell):
        return 1.0
    prune = cell["stages"]["prune"]
    return float(prune["pruned"]["macs"] / prune["baseline"]["macs"])


def came_back_whole(cell: Cell) -> bool:
    """Whether a schedule found nothing inside a tolerance: then the unpruned network is its answer, not no answer."""
    error = cell.get("error") or {}
    return cell["goal"]["kind"] == "tolerance" and error.get("kind") == "NothingInside"


def curve(cell: Cell) -> list[tuple[float, float]]:
    """Epochs spent and the fraction of the MACs left by then: a step for every round that was kept."""
    prune, spent = cell["stages"]["prune"], 0.0
    found = [(0.0, 1.0)]
    for line in prune["rounds"]:
        spent += line.get("epochs", 0.0)
        if line["accepted"]:
            found.append((spent, line["macs"] / prune["baseline"]["macs"]))
    return found


def merit(cell: Cell) -> float:
    """What the controllers of a cell's setting compete for, higher is better.

    At a MACs budget it is the test score; at a tolerance, which all networks handed back keep, the share of MACs gone.
    """
    return 1.0 - macs_left(cell) if cell["goal"]["kind"] == "tolerance" else float(final_stage(cell)["test_score"])


def analyse(cells: Sequence[Cell], baseline: str) -> dict[str, Any]:
    """Everything the report says about a set of cells, in plain values.

    Cells that failed, or whose network is above the budget, are counted as such and otherwise left out; but a schedule
    that found nothing inside a tolerance has removed nothing.

    Args:
        cells: Of any number of settings; those that failed count as failures and nothing else.
        baseline: The controller that the paired differences are against.
    """
    settings = grouped(cells, setting_of)
    blocks: dict[Any, dict[str, float]] = {}
    for cell in filter(_ranked, cells):
        blocks.setdefault((*setting_of(cell), cell["seed"]), {})[cell["controller"]] = merit(cell)
    warnings = {key: _warnings(key, [c for c in members if _ranked(c)]) for key, members in settings.items()}
    return {
        "baseline": baseline,
        "settings": [
            {**_table(key, members, baseline), "close": bool(warnings[key])} for key, members in settings.items()
        ],
        "ranks": [asdict(row) for row in rank_table(blocks)],
        "warnings": [warning for found in warnings.values() for warning in found],
    }


def _table(key: tuple[str, str, str, float], cells: Sequence[Cell], baseline: str) -> dict[str, Any]:
    model, data, kind, value = key
    by_controller = grouped(cells, _controller)
    reference = _by_seed([cell for cell in by_controller.get(baseline, ()) if _ranked(cell)])
    rows = [_row(name, members, reference) for name, members in by_controller.items()]
    rows.sort(key=lambda row: (row["merit"] is None, -row["merit"]["mean"] if row["merit"] else 0.0))
    unit = _unit([cell for cell in cells if _ended(cell, "prune")])
    return {
        "model": model,
        "data": data,
        "goal": {"kind": kind, "value": value},
        "metric": unit.metric,
        "percent": unit.percent,
        "measure": "share of MACs removed" if kind == "tolerance" else f"test {unit.metric}",
        "merit_percent": unit.percent or kind == "tolerance",
        "rows": rows,
        "proxy": _proxy([cell for cell in cells if cell["status"] == "finished"]),
    }


def _controller(cell: Cell) -> str:
    return str(cell["controller"])


def _unit(cells: Sequence[Cell]) -> Unit:
    return Unit.of(cells[0]["stages"]["prune"]["pruned"]) if cells else Unit()


def _counts(cell: Cell) -> bool:
    """Whether a cell can be compared: finished, and its goal met. A network above the budget has no score at it."""
    return cell["status"] == "finished" and bool(cell["stages"]["prune"]["goal_met"])


def _ranked(cell: Cell) -> bool:
    """Whether a cell has a merit."""
    return _counts(cell) or came_back_whole(cell)


def _by_seed(cells: Sequence[Cell]) -> dict[int, float]:
    return {cell["seed"]: merit(cell) for cell in cells}


def _row(controller: str, cells: Sequence[Cell], reference: Mapping[int, float]) -> dict[str, Any]:
    done, ranked = [cell for cell in cells if _counts(cell)], [cell for cell in cells if _ranked(cell)]
    paired = paired_differences(_by_seed(ranked), reference)
    row: dict[str, Any] = {
        "controller": controller,
        "finished": len(done),
        "failed": sum(cell["status"] == "failed" for cell in cells),
        "unmet": sum(cell["status"] == "finished" and not _counts(cell) for cell in cells),
        "merit": _interval([merit(cell) for cell in ranked]),
        "against_baseline": asdict(paired) if paired else None,
        "macs_left": _interval([macs_left(cell) for cell in ranked]),
        "curve": _mean_curve([curve(cell) for cell in done]),
        "drop": _interval([cell["stages"]["prune"]["drop"] for cell in done]),
    }
    for stage in ("prune", "finetune", "scratch"):
        found = [cell["stages"][stage] for cell in done if _ended(cell, stage)]
        for split in ("control", "test"):
            row[f"{stage}_{split}"] = _interval([entry["pruned"][f"{split}_score"] for entry in found])
    # What the cells' networks cost; the control that is trained from scratch is not part of it
    paid = [[cell["stages"][stage] for stage in ("prune", "finetune") if _ended(cell, stage)] for cell in done]
    for name in SPENT:
        row[name] = _interval([float(sum(stage["spent"][name] for stage in stages)) for stages in paid])
    row["followed"] = followed_by_group(line for cell in done for line in cell["stages"]["prune"]["rounds"])
    seconds = [float(sum(stage["time"]["seconds"] for stage in stages)) for stages in paid]
    row["time"] = {"seconds": _interval(seconds)}
    return row


def _mean_curve(curves: Sequence[Sequence[tuple[float, float]]]) -> list[tuple[float, float]]:
    """The mean over seeds, at every number of epochs at which one of them gets on; it starts with the unpruned network.

    What goes without any training is a second point at no epochs.
    """
    places = sorted({spent for found in curves for spent, _ in found})
    means = [[min(left for spent, left in found if spent <= place) for found in curves] for place in places]
    steps = [(place, sum(lefts) / len(lefts)) for place, lefts in zip(places, means, strict=True)]
    return steps if not steps or steps[0] == (0.0, 1.0) else [(0.0, 1.0), *steps]


def _interval(values: Sequence[float]) -> dict[str, Any] | None:
    return asdict(mean_interval(values)) if values else None


def _ended(cell: Cell, stage: str) -> bool:
    entry = cell["stages"].get(stage)
    return entry is not None and entry["status"] == "finished"


def _proxy(cells: Sequence[Cell]) -> dict[str, Any] | None:
    """How well the control score before fine-tuning foretells the test score after it."""
    tuned = [cell for cell in cells if _ended(cell, "finetune")]
    if not tuned:
        return None
    before = [cell["stages"]["prune"]["pruned"]["control_score"] for cell in tuned]
    after = [cell["stages"]["finetune"]["pruned"]["test_score"] for cell in tuned]
    return {"spearman": spearman(before, after), "n": len(tuned)}


def _warnings(key: tuple[str, str, str, float], cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """What is too close to call among a setting's cells.

    An accuracy at a budget is held against what its split can resolve. Whatever has no such bound, against the paired
    interval of the two leading controllers over the seeds, where there is more than one.
    """
    by_controller = grouped(cells, _controller)
    if len(by_controller) < 2:
        return []
    where = f"{key[0]} on {key[1]}, {key[2]} {key[3]:g}"
    if key[2] == "tolerance" or _unit(cells).metric != "accuracy":
        return _unclear(where, by_controller, "points" if key[2] == "tolerance" else _unit(cells).differences)
    found = (_unresolved(where, split, by_controller) for split in ("control", "test"))
    return [warning for warning in found if warning is not None]


def _leading(values: Mapping[str, Sequence[float]]) -> tuple[tuple[str, float], tuple[str, float]]:
    means = {name: sum(numbers) / len(numbers) for name, numbers in values.items()}
    first, second = sorted(means.items(), key=lambda item: (-item[1], item[0]))[:2]
    return first, second


def _unclear(where: str, by_controller: Mapping[str, Sequence[Cell]], unit: str) -> list[dict[str, Any]]:
    factor = 100 if unit == "points" else 1
    (first, _), (second, _) = _leading({name: [merit(c) for c in found] for name, found in by_controller.items()})
    paired = paired_differences(_by_seed(by_controller[first]), _by_seed(by_controller[second]))
    if paired is None or paired.difference.low is None or paired.difference.high is None or paired.difference.low > 0:
        return []
    low, high, n = factor * paired.difference.low, factor * paired.difference.high, paired.difference.n
    interval = f"the 95 % interval of their difference over {n} seeds is {low:+.3g} to {high:+.3g} {unit}"
    level = abs(paired.difference.mean) < LEVEL
    lead = f"{first} and {second} are level" if level else f"{first} leads {second}, but {interval}"
    common = {"controllers": [first, second], "difference": paired.difference.mean}
    return [{"split": "seeds", **common, "text": f"{where}: {lead}."}]


def _unresolved(where: str, split: str, by_controller: Mapping[str, Sequence[Cell]]) -> dict[str, Any] | None:
    finals = {name: [final_stage(cell) for cell in cells] for name, cells in by_controller.items()}
    scores = {name: [float(figures[f"{split}_score"]) for figures in found] for name, found in finals.items()}
    (first, best), (second, next_best) = _leading(scores)
    images = int(finals[first][0][f"{split}_size"])
    bound, gap = resolution((best + next_best) / 2, images), best - next_best
    if gap >= bound:
        return None
    level = gap < LEVEL  # means of equal scores differ in the last digits of floating point
    needed = None if level else images_needed((best + next_best) / 2, gap)
    lead = f"{first} and {second} are level" if level else f"{first} leads {second} by {100 * gap:.2f} points"
    remedy = f"; about {needed:,} would be needed" if needed and needed <= IMAGES_MOST else ""
    return {
        "split": split,
        "images": images,
        "resolution": bound,
        "controllers": [first, second],
        "difference": 0.0 if level else gap,
        "images_needed": needed,
        "text": (
            f"{where}: {lead}, and the {images:,} {split} images of one seed tell apart {100 * bound:.2f} points "
            f"at 95 %{remedy}."
        ),
    }
