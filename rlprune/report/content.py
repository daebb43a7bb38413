"""What a report shows, as one plain object: the same for a single run and for a comparison of many."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rlprune.errors import UserError
from rlprune.files import read_json
from rlprune.report.analysis import analyse, curve
from rlprune.report.pareto import non_dominated
from rlprune.report.pictures import PICTURES
from rlprune.report.statistics import grouped
from rlprune.report.summary import latency_setting, verdict
from rlprune.report.units import Unit
from rlprune.scoring.sensitivity import Sensitivity

FORMAT = "rlprune-report-1"
CONTROL = ("slack", "healing_predicted", "healing", "bound_by", "epochs", "epochs_left", "followed")
"""What a rule may note of how a round's step was chosen and what came of it."""

ROUND = ("round", "score", "drop", "macs", "parameters", "accepted", "rates", "reward_terms", *CONTROL)


def load_content(folder: Path) -> dict[str, Any]:
    """The content for a run folder or a comparison's folder.

    Raises:
        UserError: If the folder holds neither, or its record is damaged.
    """
    if (folder / "comparison.json").exists():
        content = comparison_content(_checked(folder / "comparison.json", ("settings", "cells", "analysis")))
    elif (folder / "record.json").exists():
        record = _checked(folder / "record.json", ("status", "rounds", "settings"))
        if record["status"] != "finished":
            raise UserError(
                f"the run in {folder} is {record['status']}; finish it with `rlprune prune --out {folder} --resume`"
            )
        content = run_content(record, folder.name)
        content["pictures"] = _pictures(record, folder / PICTURES)
    elif (folder / "sensitivity.json").exists():
        raise UserError(f"{folder} is a scan, whose picture is sensitivity.png in it; a report is of a pruning run")
    else:
        raise UserError(
            f"nothing to report in {folder}: it has neither record.json (written by `rlprune prune`) nor "
            "comparison.json (written by `rlprune compare`)"
        )
    content["sensitivity"] = _sensitivity(folder / "sensitivity.json")
    return content


def run_content(record: Mapping[str, Any], name: str = "run") -> dict[str, Any]:
    """The content for the record of one run."""
    settings, baseline = record["settings"], record["baseline"]
    problem = {"model": record["model"], "data": record["data"]["name"], **_figures(baseline)}
    cell = {
        "id": name,
        "controller": settings["controller"],
        "problem": 0,
        "goal": {"kind": "tolerance", "value": record["tolerance"]},
        "seed": record["seed"],
        "status": "finished",
        "error": None,
        "stopped": record["stopped"],
        "drop": record["drop"],
        "macs_left": record["pruned"]["macs"] / baseline["macs"],
        "widths": record["widths"],
        "rounds": [_round(line) for line in record["rounds"]],
        "spent": record.get("cost", {}),
        "seconds": record.get("time", {}).get("pruning_s"),
        "latency": _latencies(record),
        "verdict": verdict(record, Unit.of(baseline)),
        "stages": {"prune": _figures(record["pruned"])},
    }
    return _content("run", name, record, [problem], [cell], None)


def comparison_content(comparison: Mapping[str, Any]) -> dict[str, Any]:
    """The content for a comparison."""
    problems: list[dict[str, Any]] = []
    numbers: dict[tuple[str, str], int] = {}
    cells = []
    for entry in comparison["cells"]:
        key = (entry["problem"]["model"], entry["problem"]["data"])
        if key not in numbers:
            numbers[key] = len(problems)
            problems.append({"model": key[0], "data": key[1]})
        prune = entry["stages"].get("prune", {})
        if "macs" not in problems[numbers[key]] and prune.get("status") == "finished":
            problems[numbers[key]] |= _figures(prune["baseline"])
        cells.append(_cell(entry, numbers[key]))
    title = comparison.get("name", "comparison")
    # Analysed anew: what an earlier version wrote may lack what the page asks for
    analysis = analyse(comparison["cells"], comparison["analysis"]["baseline"])
    return _content("comparison", title, comparison, problems, cells, analysis)


def _content(
    kind: str,
    title: str,
    record: Mapping[str, Any],
    problems: list[dict[str, Any]],
    cells: list[dict[str, Any]],
    analysis: Any,
) -> dict[str, Any]:
    _mark_fronts(cells)
    return {
        "format": FORMAT,
        "kind": kind,
        "title": title,
        "status": record["status"],
        "commands": [record["command"]] if record.get("command") else [],
        "versions": record.get("versions", {}),
        "problems": problems,
        "cells": cells,
        "analysis": analysis,
        "sensitivity": None,
        "pictures": None,
    }


def _cell(entry: Mapping[str, Any], problem: int) -> dict[str, Any]:
    stages = entry["stages"]
    common = {
        "id": entry["id"],
        "controller": entry["controller"],
        "problem": problem,
        "goal": entry["goal"],
        "seed": entry["seed"],
        "status": entry["status"],
        "error": entry.get("error"),
    }
    prune = stages.get("prune", {})
    if prune.get("status") != "finished":
        return {**common, "stages": {}, "widths": [], "rounds": [], "spent": {}, "seconds": None, "latency": None}
    finished = {name: stage for name, stage in stages.items() if stage["status"] == "finished"}
    paid = [finished[name] for name in ("prune", "finetune") if name in finished]
    return {
        **common,
        "stopped": prune["stopped"],
        "drop": prune["drop"],
        "macs_left": prune["pruned"]["macs"] / prune["baseline"]["macs"],
        "widths": prune["widths"],
        "rounds": [_round(line) for line in prune["rounds"]],
        "curve": curve(entry),
        "spent": {key: sum(stage["spent"][key] for stage in paid) for key in prune["spent"]},
        "seconds": sum(stage["time"]["seconds"] for stage in paid),
        "latency": _latencies(prune),
        "stages": {name: _figures(stage["pruned"]) for name, stage in finished.items()},
    }


def _figures(side: Mapping[str, Any]) -> dict[str, Any]:
    wanted = ("metric", "percent", "macs", "parameters")
    splits = [f"{split}_{what}" for split in ("control", "test") for what in ("score", "interval", "size")]
    return {key: side[key] for key in (*wanted, *splits) if key in side}


def _latencies(record: Mapping[str, Any]) -> dict[str, Any] | None:
    measured = record.get("latency") or {}
    if not {"baseline", "pruned"} <= measured.keys():
        return None
    medians = {side: measured[side]["median_s"] for side in ("baseline", "pruned")}
    return {**medians, "parallel": bool(measured.get("parallel")), "setting": latency_setting(measured)}


def _round(line: Mapping[str, Any]) -> dict[str, Any]:
    return {key: line[key] for key in ROUND if key in line}


def _mark_fronts(cells: Sequence[dict[str, Any]]) -> None:
    """Say of every network whether another one of its model and data beats it in test score and MACs."""
    for cell in cells:
        cell["front"] = {}
    for rivals in grouped((cell for cell in cells if cell["stages"]), lambda cell: cell["problem"]).values():
        for stage in ("prune", "finetune", "scratch"):
            for split in ("control", "test"):
                there = [cell for cell in rivals if f"{split}_score" in cell["stages"].get(stage, {})]
                if not there:
                    continue
                points = [[-cell["stages"][stage][f"{split}_score"], cell["stages"][stage]["macs"]] for cell in there]
                for cell, best in zip(there, non_dominated(points), strict=True):
                    cell["front"][f"{stage}_{split}"] = bool(best)


def _checked(path: Path, keys: tuple[str, ...]) -> dict[str, Any]:
    content = read_json(path)
    missing = [key for key in keys if not isinstance(content, dict) or key not in content]
    if missing:
        raise UserError(f"{path} has no {missing[0]!r}; it is damaged or was written by something else")
    return dict(content)


def _pictures(record: Mapping[str, Any], path: Path) -> dict[str, str] | None:
    """The examples that the run drew, as a data URI, with their caption."""
    if "pictures" not in record or not path.is_file():
        return None
    data = base64.b64encode(path.read_bytes()).decode("ascii")
    return {"image": f"data:image/png;base64,{data}", "caption": str(record["pictures"])}


def _sensitivity(path: Path) -> dict[str, Any] | None:
    """A sensitivity scan in the folder: `groups` (g,), `rates` (r,), `scores` (g, r), and the `baseline`."""
    if not path.exists():
        return None
    found = Sensitivity.read(path)
    return {
        "groups": list(found.scores),
        "rates": list(found.rates),
        "scores": [list(scores) for scores in found.scores.values()],
        "baseline": found.baseline,
    }


def to_script(content: Mapping[str, Any]) -> str:
    """JSON that can stand inside a `<script>` element, whatever names it holds."""
    text = json.dumps(content, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
