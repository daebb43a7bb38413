"""A cell's stages: prune, fine-tune, train the same shape from scratch. Each goes from files to files, anywhere.

A stage is a pure function of plain values and, for the later ones, of the network that pruning left. So it can run in
any process on any machine that has the data, be repeated after a crash, and always give the same.
"""

from __future__ import annotations

import tempfile
import time
import traceback
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

from rlprune.agents.compare.contestants import Arena, play
from rlprune.agents.compare.settings import Cell, CompareSettings, Goal, PlaySettings, TuneSettings
from rlprune.agents.runs.pruning import describe, latency
from rlprune.artifact import load_pruned, save_pruned
from rlprune.channels import PruningPlan, remove_channels
from rlprune.models import resolve_model
from rlprune.network import Network
from rlprune.problem import PruningProblem
from rlprune.recovery import TrainSettings, train
from rlprune.registry import Registry
from rlprune.seeding import derive
from rlprune.spec import ProblemSpec
from rlprune.tasks import score_drop


@dataclass(frozen=True)
class Job:
    """One stage of one cell, with everything it needs.

    Attributes:
        cell: Which.
        stage: `prune`, `finetune` or `scratch`.
        play: The rules of the game.
        tune: The training afterwards.
        pruned: What the stage `prune` gave: its result and its network's file; None for that stage itself.
    """

    cell: Cell
    stage: str
    play: PlaySettings
    tune: TuneSettings
    pruned: tuple[dict[str, Any], bytes] | None = None

    @property
    def parameters(self) -> dict[str, Any]:
        """What decides the stage's result: a result with other parameters is not this job's."""
        wanted: dict[str, Any] = {
            "controller": self.cell.controller,
            "goal": self.cell.goal.to_json(),
            "problem": self.cell.spec.to_json(),
            "play": {**self.play.to_json(), "options": dict(self.play.options.get(self.cell.controller, {}))},
        }
        if self.stage != "prune":
            training = self.tune.training(self.stage)
            wanted["tune"] = {name: getattr(training, name) for name in ("epochs", "lr", "batch_size")}
        return wanted


@dataclass(frozen=True)
class Result:
    """What a stage gave.

    Attributes:
        content: Plain values, for the stage's JSON file.
        network: The network's file as bytes; None if the stage failed.
        trace: Where it failed, for the one who looks into it.
    """

    content: dict[str, Any]
    network: bytes | None = None
    trace: str | None = None


def run(job: Job) -> Result:
    """Run a stage. Whatever goes wrong inside is its result, and not fatal to anything else."""
    try:
        content, network = STAGE_FUNCTIONS.get(job.stage)(job)
    except Exception as error:
        return failed(job, type(error).__name__, str(error), traceback.format_exc())
    return Result({"status": "finished", "parameters": job.parameters, **content}, network)


def failed(job: Job, kind: str, message: str, trace: str | None = None) -> Result:
    """The result of a stage that did not come to its end."""
    error = {"kind": kind, "message": message or kind}
    return Result({"status": "failed", "parameters": job.parameters, "error": error}, None, trace)


STAGE_FUNCTIONS: Registry[Any] = Registry("stage")


@STAGE_FUNCTIONS.register("prune")
def prune_stage(job: Job) -> tuple[dict[str, Any], bytes]:
    """Let the controller play, and describe what it hands back."""
    problem, baseline = fresh_problem(job.cell.spec)
    goal, seed = job.cell.goal, job.cell.spec.seed
    before, started = asdict(problem.ledger), time.monotonic()
    played = play(Arena(problem, job.play, job.cell.controller, seed, job.play.evaluations), goal)
    seconds, spent = time.monotonic() - started, _difference(asdict(problem.ledger), before)
    pruned = describe(problem, played.network)
    drop = score_drop(baseline["control_score"], pruned["control_score"])
    content = {
        "data": problem.data.name,
        "baseline": baseline,
        "pruned": pruned,
        "drop": drop,
        "goal_met": _met(goal, drop, pruned["macs"] / baseline["macs"]),
        "stopped": played.stopped,
        "plan": played.network.plan.to_json(),
        "widths": [
            {"name": group.name, "before": group.size, "after": played.network.groups[group.name].size}
            for group in problem.groups.prunable
        ],
        "rounds": played.history,
        "spent": spent,
        "time": {"seconds": seconds},
        "latency": latency(problem, problem.base(), played.network),
    }
    return _packed(problem, played.network, content)


@STAGE_FUNCTIONS.register("finetune")
def finetune_stage(job: Job) -> tuple[dict[str, Any], bytes]:
    """Train the pruned network for what is left of the shared budget."""
    problem, _ = fresh_problem(job.cell.spec)
    assert job.pruned is not None
    result, network = job.pruned
    spent_before = result["spent"]["images_trained"] / len(problem.data.train)
    settings = job.tune.training("finetune")
    settings = replace(settings, epochs=max(0.0, settings.epochs - spent_before))
    return _trained(problem, unpack(problem, result["plan"], network), settings, job)


@STAGE_FUNCTIONS.register("scratch")
def scratch_stage(job: Job) -> tuple[dict[str, Any], bytes]:
    """Train the pruned shape from fresh weights (the control of Liu et al. 2019, *Rethinking the value*)."""
    problem, _ = fresh_problem(job.cell.spec)
    assert job.pruned is not None
    result, network = job.pruned
    shaped = unpack(problem, result["plan"], network)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(job.cell.spec.seed, "scratch"))
        model: nn.Module = resolve_model(
            job.cell.spec.model, num_classes=len(problem.data.classes), in_channels=problem.data.input_shape[0]
        )
    shaped.model = remove_channels(model.to(problem.device), problem.groups, shaped.plan)
    return _trained(problem, shaped, job.tune.training("scratch"), job)


def _trained(
    problem: PruningProblem, network: Network, settings: TrainSettings, job: Job
) -> tuple[dict[str, Any], bytes]:
    before, started = asdict(problem.ledger), time.monotonic()
    if settings.epochs > 0:
        train(
            network.model,
            problem.task,
            problem.data.train,
            settings,
            seed=derive(job.cell.spec.seed, job.stage),
            device=str(problem.device),
            ledger=problem.ledger,
        )
    seconds, spent = time.monotonic() - started, _difference(asdict(problem.ledger), before)
    content = {
        "data": problem.data.name,
        "pruned": describe(problem, network),
        "epochs": settings.epochs,
        "spent": spent,
        "time": {"seconds": seconds},
    }
    return _packed(problem, network, content)


def fresh_problem(spec: ProblemSpec) -> tuple[PruningProblem, dict[str, Any]]:
    """A problem whose books are empty, and the figures of its unpruned network.

    Data and weights are loaded once in a process; books, caches and traces are every cell's own, so that what a cell
    counts does not depend on what ran in the process before.
    """
    shared, baseline = _loaded(spec)
    problem = PruningProblem(shared.model, shared.data, spec=spec)
    assert problem.baseline is not None  # scored now: the unpruned network's score is nobody's cost
    return problem, dict(baseline)


@lru_cache(maxsize=2)
def _loaded(spec: ProblemSpec) -> tuple[PruningProblem, dict[str, Any]]:
    problem = spec.build()
    return problem, describe(problem, problem.base())


def unpack(problem: PruningProblem, plan: Mapping[str, Any], file: bytes) -> Network:
    """The network in a stage's file."""
    network = problem.base().remove(PruningPlan.from_json(plan), problem.groups)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.pt"
        path.write_bytes(file)
        network.model = load_pruned(path, problem.base().model).to(problem.device).eval()
    return network


def _packed(problem: PruningProblem, network: Network, content: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
    meta = {
        "model": problem.spec.model,
        "classes": list(problem.data.classes),
        "plan": network.plan.to_json(),
    }
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.pt"
        digest = save_pruned(path, problem.model, network.model, meta)
        return {**content, "sha256": digest}, path.read_bytes()


def _difference(after: Mapping[str, int], before: Mapping[str, int]) -> dict[str, int]:
    return {key: after[key] - before[key] for key in ("evaluations", "images_evaluated", "images_trained")}


def _met(goal: Goal, drop: float, left: float) -> bool:
    return left <= goal.value if goal.kind == "budget" else drop <= goal.value


def jobs_of(settings: CompareSettings, cell: Cell) -> list[Job]:
    """The jobs of a cell, in the order in which they can run; the later ones still without the pruned network."""
    return [Job(cell, stage, settings.play, settings.tune) for stage in settings.tune.stages]


def with_pruned(job: Job, result: dict[str, Any], network: bytes) -> Job:
    """The job with what the stage `prune` gave."""
    return replace(job, pruned=(result, network))
