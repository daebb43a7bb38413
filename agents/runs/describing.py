"""The record of a run in plain values: scores with intervals, cost, latency, widths."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from rlprune.agents.runs.engine import Outcome
from rlprune.agents.runs.recipe import Recipe
from rlprune.cost import measure_latency
from rlprune.drops import score_drop
from rlprune.network import Network
from rlprune.problem import PruningProblem
from rlprune.record import run_name, subject, versions
from rlprune.scoring.paired import certainty
from rlprune.tasks import Score

LATENCY_S = 0.1  # to measure each network for


def describe(
    problem: PruningProblem, network: Network, tolerance: float | None = None, control: Score | None = None
) -> dict[str, Any]:
    """Scores with 95 % intervals on control and, where there is one, on test; cost; how sure a tolerance is kept.

    The score on `control` is not computed again where it is known, as the unpruned network's always is.
    """
    known = problem.baseline if network.model is problem.model else control
    control = known or problem.evaluator.score(network.model, "control")
    found = control.figures("control")
    if tolerance is not None and (sure := certainty(problem.baseline, control, tolerance)) is not None:
        found["certainty"] = sure
    if problem.data.test is not None:
        found = {**problem.evaluator.score(network.model, "test").figures("test"), **found}
    return {**found, "macs": problem.macs(network), "parameters": problem.parameters(network)}


def latency(problem: PruningProblem, network: Network) -> dict[str, Any]:
    """Median and interquartile range of one forward pass on one example, before and after, in seconds."""
    times = {"baseline": timing(problem, problem.model), "pruned": timing(problem, network.model)}
    return {"batch": 1, "threads": torch.get_num_threads(), **times}


def timing(problem: PruningProblem, model: nn.Module) -> dict[str, float]:
    """Median and interquartile range of one forward pass of one network, in seconds."""
    measured = measure_latency(model, *problem.example_inputs, min_run_time=LATENCY_S)
    return {"median_s": measured.median_s, "iqr_s": measured.iqr_s}


def opening(problem: PruningProblem, recipe: Recipe, command: str) -> dict[str, Any]:
    """The record of a run that begins."""
    source = problem.source
    name = str(source["model"]) if source is not None else type(problem.model).__name__
    return {
        "status": "running",
        "model": name,
        "method": recipe.method,
        "seed": problem.seed,
        "tolerance": recipe.tolerance,
        "settings": {**recipe.to_json(), "problem": source},
        "data": problem.data.to_json(),
        "command": command,
        "versions": versions(),
        "rounds": [],
    }


def closing(
    problem: PruningProblem,
    outcome: Outcome,
    tolerance: float,
    baseline: Mapping[str, Any] | None = None,
    timed: bool = True,
) -> dict[str, Any]:
    """What a run's record says once it is over; scores the test split, once.

    Args:
        problem: Whose books they are.
        outcome: What came of it.
        tolerance: What was allowed.
        baseline: `describe` of the unpruned network, where it is known.
        timed: Measure latencies.
    """
    network = outcome.network
    cost = problem.ledger.state_dict()
    baseline = dict(baseline or describe(problem, Network(problem.model, problem.groups)))
    pruned = describe(problem, network, tolerance, outcome.control)
    prunable = [group.name for group in problem.groups.prunable]
    return {
        "status": "finished",
        "stopped": outcome.stopped,
        "rounds": outcome.rounds,
        "finish": outcome.finish,
        "samples": outcome.tried,
        "epochs": outcome.epochs,
        "baseline": baseline,
        "pruned": pruned,
        "drop": score_drop(baseline["control_score"], pruned["control_score"]),
        "plan": network.plan.to_json(),
        "widths": [
            {"name": name, "before": problem.groups[name].size, "after": network.groups[name].size} for name in prunable
        ],
        "cost": cost,
        "time": {"pruning_s": outcome.seconds},
        **({"latency": latency(problem, network)} if timed else {}),
    }


def default_name(problem: PruningProblem, recipe: Recipe) -> str:
    """What a run's folder is called."""
    source = problem.source or {"model": type(problem.model).__name__, "data": "live"}
    file = Path(recipe.controller.partition(":")[2])
    who = (file.parent.name or file.stem) if ":" in recipe.controller else recipe.method
    goal = [f"t{recipe.tolerance:g}", *([] if recipe.budget is None else [f"b{recipe.budget:g}"])]
    return run_name(*subject(str(source["model"]), str(source["data"])), who, *goal, f"s{problem.seed}")
