"""What a comparison's cells say together: tables per setting, ranks over all of them, warnings, proxy quality.

A *cell* is one controller on one model, data set, goal and seed, in the plain form in which `rlprune compare` writes
it. Cells that share model, data and goal are a *setting*; within it the controllers are compared seed by seed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rlprune.report.statistics import (
    images_needed,
    mean_interval,
    paired_differences,
    rank_table,
    resolution,
    spearman,
)

Cell = Mapping[str, Any]
SPENT = ("evaluations", "images_evaluated", "images_trained")


def setting_of(cell: Cell) -> tuple[str, str, str, float]:
    """What is held fixed while controllers are compared: model, data, kind of goal and its value."""
    goal = cell["goal"]
    return cell["problem"]["model"], cell["problem"]["data"], goal["kind"], goal["value"]


def final_stage(cell: Cell) -> Mapping[str, Any]:
    """The figures of the network a cell ends with: fine-tuned if it was, else as it was pruned."""
    stages: Mapping[str, Any] = cell["stages"]
    tuned = stages.get("finetune")
    figures: Mapping[str, Any] = (tuned if tuned and tuned["status"] == "finished" else stages["prune"])["pruned"]
    return figures


def macs_left(cell: Cell) -> float:
    """Fraction of the unpruned network's MACs that the cell's network has."""
    prune = cell["stages"]["prune"]
    return float(prune["pruned"]["macs"] / prune["baseline"]["macs"])


def merit(cell: Cell) -> float:
    """What the controllers of a cell's setting compete for, higher is better.

    At a MACs budget it is the test score; at a tolerance, which all networks handed back keep, the share of MACs gone.
    """
    return 1.0 - macs_left(cell) if cell["goal"]["kind"] == "tolerance" else float(final_stage(cell)["test_score"])


def analyse(cells: Sequence[Cell], baseline: str) -> dict[str, Any]:
    """Everything the report says about a set of cells, in plain values.

    Cells that failed, or whose network is above the budget, are counted as such and otherwise left out.

    Args:
        cells: Of any number of settings; those that failed count as failures and nothing else.
        baseline: The controller that the paired differences are against.
    """
    settings: dict[tuple[str, str, str, float], list[Cell]] = {}
    for cell in cells:
        settings.setdefault(setting_of(cell), []).append(cell)
    finished = [cell for cell in cells if _counts(cell)]
    tables = [_table(key, members, baseline) for key, members in settings.items()]
    blocks: dict[Any, dict[str, float]] = {}
    for cell in finished:
        blocks.setdefault((*setting_of(cell), cell["seed"]), {})[cell["controller"]] = merit(cell)
    return {
        "baseline": baseline,
        "settings": tables,
        "ranks": [row.to_json() for row in rank_table(blocks)],
        "warnings": [warning for members in settings.values() for warning in _warnings(members)],
    }


def _table(key: tuple[str, str, str, float], cells: Sequence[Cell], baseline: str) -> dict[str, Any]:
    model, data, kind, value = key
    by_controller: dict[str, list[Cell]] = {}
    for cell in cells:
        by_controller.setdefault(cell["controller"], []).append(cell)
    reference = _by_seed(by_controller.get(baseline, ()))
    rows = [_row(name, members, reference) for name, members in by_controller.items()]
    rows.sort(key=lambda row: -row["merit"]["mean"] if row["merit"] else 2.0)
    return {
        "model": model,
        "data": data,
        "goal": {"kind": kind, "value": value},
        "measure": "share of MACs removed" if kind == "tolerance" else "test score",
        "rows": rows,
        "proxy": _proxy([cell for cell in cells if cell["status"] == "finished"]),
    }


def _counts(cell: Cell) -> bool:
    """Whether a cell can be compared: finished, and its goal met. A network above the budget has no score at it."""
    return cell["status"] == "finished" and bool(cell["stages"]["prune"]["goal_met"])


def _by_seed(cells: Iterable[Cell]) -> dict[int, float]:
    return {cell["seed"]: merit(cell) for cell in cells if _counts(cell)}


def _row(controller: str, cells: Sequence[Cell], reference: Mapping[int, float]) -> dict[str, Any]:
    done = [cell for cell in cells if _counts(cell)]
    paired = paired_differences(_by_seed(done), reference)
    row: dict[str, Any] = {
        "controller": controller,
        "finished": len(done),
        "failed": sum(cell["status"] == "failed" for cell in cells),
        "unmet": sum(cell["status"] == "finished" and not _counts(cell) for cell in cells),
        "merit": _interval([merit(cell) for cell in done]),
        "against_baseline": paired.to_json() if paired else None,
        "macs_left": _interval([macs_left(cell) for cell in done]),
        "drop": _interval([cell["stages"]["prune"]["drop"] for cell in done]),
    }
    for stage in ("prune", "finetune", "scratch"):
        found = [cell["stages"][stage] for cell in done if _ended(cell, stage)]
        for split in ("control", "test"):
            row[f"{stage}_{split}"] = _interval([entry["pruned"][f"{split}_score"] for entry in found])
    for name in SPENT:
        row[name] = _interval([float(_spent(cell, name)) for cell in done])
    row["time"] = {"seconds": _interval([_seconds(cell) for cell in done])}
    return row


def _interval(values: Sequence[float]) -> dict[str, Any] | None:
    return mean_interval(values).to_json() if values else None


def _ended(cell: Cell, stage: str) -> bool:
    entry = cell["stages"].get(stage)
    return entry is not None and entry["status"] == "finished"


def _spent(cell: Cell, name: str) -> int:
    """What the cell's network cost; the control that is trained from scratch is not part of it."""
    return sum(int(cell["stages"][stage]["spent"][name]) for stage in ("prune", "finetune") if _ended(cell, stage))


def _seconds(cell: Cell) -> float:
    return sum(
        float(cell["stages"][stage]["time"]["seconds"]) for stage in ("prune", "finetune") if _ended(cell, stage)
    )


def _proxy(cells: Sequence[Cell]) -> dict[str, Any] | None:
    """How well the control score before fine-tuning foretells the test score after it."""
    tuned = [cell for cell in cells if _ended(cell, "finetune")]
    if not tuned:
        return None
    before = [cell["stages"]["prune"]["pruned"]["control_score"] for cell in tuned]
    after = [cell["stages"]["finetune"]["pruned"]["test_score"] for cell in tuned]
    return {"spearman": spearman(before, after), "n": len(tuned)}


def _warnings(cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """A warning if the two leading controllers differ by less than the split can resolve."""
    done = [cell for cell in cells if _counts(cell)]
    if not done or done[0]["goal"]["kind"] == "tolerance":
        return []
    model, data, kind, value = setting_of(done[0])
    found = []
    for split in ("control", "test"):
        means: dict[str, float] = {}
        for name in {cell["controller"] for cell in done}:
            scores = [float(final_stage(cell)[f"{split}_score"]) for cell in done if cell["controller"] == name]
            means[name] = sum(scores) / len(scores)
        if len(means) < 2 or done[0]["stages"]["prune"]["pruned"]["metric"] != "accuracy":
            continue
        (first, best), (second, next_best) = sorted(means.items(), key=lambda item: (-item[1], item[0]))[:2]
        images = int(final_stage(done[0])[f"{split}_size"])
        bound = resolution((best + next_best) / 2, images)
        if best - next_best >= bound:
            continue
        gap = best - next_best
        needed = images_needed((best + next_best) / 2, gap) if gap > 0 else None
        lead = f"{first} leads {second} by {100 * gap:.2f} points" if gap > 0 else f"{first} and {second} are level"
        remedy = f"; about {needed:,} would be needed" if needed else ""
        found.append(
            {
                "split": split,
                "images": images,
                "resolution": bound,
                "controllers": [first, second],
                "difference": gap,
                "images_needed": needed,
                "text": (
                    f"{model} on {data}, {kind} {value:g}: {lead}, and the "
                    f"{images:,} {split} images of one seed tell apart {100 * bound:.2f} points at 95 %{remedy}."
                ),
            }
        )
    return found
