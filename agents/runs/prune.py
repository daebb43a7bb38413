"""The road for everybody's model: `rlprune.prune`."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from rlprune.agents.runs.describing import closing, opening
from rlprune.agents.runs.engine import play
from rlprune.agents.runs.folder import FolderSink, begin
from rlprune.agents.runs.playing import settle
from rlprune.agents.runs.recipe import Recipe
from rlprune.agents.runs.recipes import get_recipe
from rlprune.agents.runs.replaying import saved_network
from rlprune.agents.runs.result import Result
from rlprune.agents.runs.watching import Silent, Watcher
from rlprune.data.calling import freed
from rlprune.errors import UserError
from rlprune.locking import locked
from rlprune.network import Network
from rlprune.problem import Evaluate, Fit, PruningProblem
from rlprune.record import RunFolder
from rlprune.report.live import LiveRun
from rlprune.tasks import Task


def prune(  # noqa: D417 (most arguments are those of `PruningProblem`)
    model: nn.Module,
    *,
    control: Any = None,
    train: Any = None,
    calibration: Any = None,
    test: Any = None,
    task: str | Task = "classification",
    tolerance: float | None = 0.01,
    budget: float | None = None,
    recipe: str | Recipe = "prc",
    epochs: float | None = None,
    evaluate: Evaluate | None = None,
    fit: Fit | None = None,
    example_inputs: tuple[Any, ...] | Mapping[str, Any] | None = None,
    batch: Callable[[Any], Any] | None = None,
    keep: Sequence[str] = (),
    round_to: int = 1,
    min_channels: int = 2,
    seed: int = 0,
    device: str | torch.device | None = None,
    out: str | Path | None = None,
    progress: bool = True,
    **changes: Any,
) -> Result:
    """Prune a network to the smallest one whose control score dropped by no more than the tolerance.

    Args:
        model: Any module, on any device; it is copied, never touched. It and the arguments not named here are those of
            `PruningProblem`: loaders as they come, roles that share no example, one's own `evaluate` and `fit`.
        tolerance: Largest drop of the control score, in its own units; None with a budget: whatever it drops to.
        budget: Fraction of the MACs to end at; None goes as far as the tolerance allows.
        recipe: A name of `rlprune.agents.list_recipes()`, a YAML file, or a `Recipe`.
        epochs: Training budget of the whole run; None chooses by the size of the job.
        out: Run folder to write; None writes nothing.
        progress: Show how it gets on.
        changes: Other values of the recipe, as `Recipe.change` takes them: `lr=0.02`, `criterion="l2"` ...

    Raises:
        UserError: For anything that can be mended; says which argument does it.
    """
    if not isinstance(out, str | os.PathLike | None):
        raise UserError(f"out is {out!r}; it must be the path of a folder")
    if tolerance is None and budget is None:
        raise UserError("tolerance is None and so is the budget; one of them must say how far to go")
    given: dict[str, Any] = {"budget": budget, "epochs": epochs}
    given = {name: value for name, value in given.items() if value is not None} | {"tolerance": tolerance}
    chosen = get_recipe(recipe).change(inspect.signature(prune).parameters, **given, **changes)
    loaders: dict[str, Any] = {"control": control, "train": train, "calibration": calibration, "test": test}
    own: dict[str, Any] = {"task": task, "evaluate": evaluate, "fit": fit, "batch": batch, "device": device}
    widths: dict[str, Any] = {"keep": keep, "round_to": round_to, "min_channels": min_channels, "seed": seed}
    folder = None if out is None else RunFolder(out)
    with torch.inference_mode(False), torch.enable_grad():  # whatever the caller's mode is
        problem = PruningProblem(model, example_inputs=example_inputs, **loaders, **own, **widths)
        with LiveRun(chosen.tolerance, quiet=not progress) as live:
            return prune_problem(problem, chosen, folder=folder, watcher=live)


def prune_problem(
    problem: PruningProblem,
    recipe: Recipe,
    *,
    folder: RunFolder | None = None,
    command: str = "",
    resume: bool = False,
    watcher: Watcher | None = None,
    timed: bool = True,
    baseline: Mapping[str, Any] | None = None,
) -> Result:
    """Play a recipe on a problem, and write the run folder if there is one.

    Args:
        problem: What is pruned; its books are left alone.
        recipe: How.
        folder: Where to write. A folder that holds a run already is an error unless `resume` is set.
        command: The command line, for the record.
        resume: Go on with the run in `folder` from its last whole round; start it if it had not begun.
        watcher: Told of every round.
        timed: Measure latencies.
        baseline: `describe` of the unpruned network, where it is known.

    Raises:
        UserError: For anything the user can mend, such as a tolerance that no removal meets.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError("pruning is one process's work; torchrun is for `rlprune train`: start prune without it")
    recipe, watcher, own = settle(recipe, problem), watcher or Silent(), problem.fresh()
    opened = opening(problem, recipe, command)
    if folder is None:
        network, found = _played(own, recipe, None, watcher, timed, baseline)
        return result_of(problem, network, {**opened, **found})
    with locked(folder.path, "record.json"):
        finished = begin(folder, recipe, problem, resume)
        if finished is not None:
            return result_of(problem, saved_network(folder.model_file, finished, problem), finished)
        sink = FolderSink(folder, opened, own)
        network, found = _played(own, recipe, sink, watcher, timed, baseline)
        return result_of(problem, network, sink.finish(network, found, watcher))


def _played(
    problem: PruningProblem,
    recipe: Recipe,
    sink: FolderSink | None,
    watcher: Watcher,
    timed: bool,
    baseline: Mapping[str, Any] | None,
) -> tuple[Network, dict[str, Any]]:
    """Play a recipe to its end; the network, and what the record says of it."""
    try:
        outcome = play(problem, recipe, watcher=watcher, sink=sink)
    except UserError:
        if sink is not None and sink.begun:
            sink.record["status"] = "nothing removed"
            sink.folder.write(sink.record)
        raise
    watcher.work("scoring the result")
    found = closing(problem, outcome, recipe.tolerance, baseline, timed)
    problem.forget()
    if found["drop"] > recipe.tolerance:  # measured anew, whatever the state of the run says
        raise UserError(
            f"the network that the run ends with dropped {found['drop']:.4f} when it was scored anew, more than the "
            f"tolerance of {recipe.tolerance}: its state was damaged; start it again with another --out"
        )
    return outcome.network, found


def result_of(problem: PruningProblem, network: Network, record: Mapping[str, Any]) -> Result:
    """A result from a network and its record."""
    before, after = record["baseline"], record["pruned"]
    return Result(
        model=freed(network.model).eval(),
        plan=network.plan,
        groups=network.groups,
        baseline=before["control_score"],
        score=after["control_score"],
        drop=record["drop"],
        macs=after["macs"],
        parameters=after["parameters"],
        history=record["rounds"],
        record=record,
        _problem=problem,
    )
