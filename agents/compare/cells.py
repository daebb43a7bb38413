"""A cell's work: prune, and train the same shape from scratch.

A pure function of plain values, so that it can run in any process on any machine that has the data, be repeated after a
crash, and always give the same.
"""

from __future__ import annotations

import tempfile
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from rlprune.agents.compare.settings import Cell
from rlprune.agents.runs.basetraining import fresh_model
from rlprune.agents.runs.describing import describe, timing
from rlprune.agents.runs.healing import Cycle, drop_of, fit_cycle
from rlprune.agents.runs.playing import settle
from rlprune.agents.runs.prune import prune_problem
from rlprune.agents.runs.watching import Silent
from rlprune.artifact import save_pruned
from rlprune.channels import PruningPlan
from rlprune.network import Network
from rlprune.problem import PruningProblem
from rlprune.report.analysis import SPENT
from rlprune.seeding import derive
from rlprune.spec import ProblemSpec

KEPT = ("baseline", "pruned", "drop", "stopped", "epochs", "plan", "widths", "rounds", "finish")
"""What a cell keeps of its run's record as it is."""


@dataclass(frozen=True)
class Job:
    """What is still to do of a cell.

    Attributes:
        cell: Which.
        stages: Those that have no result yet.
        pruned: The result of `prune`, where it has one.
        timed: Measure the latency: nothing else runs beside it.
    """

    cell: Cell
    stages: tuple[str, ...]
    pruned: Mapping[str, Any] | None = None
    timed: bool = False

    @property
    def id(self) -> str:
        """The cell's."""
        return self.cell.id

    def run(self) -> Result:
        """Do it. Whatever goes wrong inside is its result, and not fatal to anything else."""
        result = Result()
        try:
            for stage in self.stages:
                pruned = self.pruned or result.stages.get("prune")
                content, network = _prune(self) if pruned is None else _scratch(self.cell, pruned)
                result.stages[stage] = {"status": "finished", "parameters": self.cell.parameters, **content}
                result.networks[stage] = network
        except (Exception, SystemExit) as error:  # a network's own code may do anything
            return result.fail(self, type(error).__name__, str(error), traceback.format_exc())
        return result

    def died(self, message: str) -> Result:
        """What it gives where it takes its process down every time."""
        return Result().fail(self, "WorkerDied", message)


@dataclass
class Result:
    """What a job gave.

    Attributes:
        stages: Plain values by stage, for its JSON file.
        networks: The networks' files as bytes, by stage.
        trace: Where it failed, for the one who looks into it.
    """

    stages: dict[str, dict[str, Any]] = field(default_factory=dict)
    networks: dict[str, bytes] = field(default_factory=dict)
    trace: str | None = None

    def fail(self, job: Job, kind: str, message: str, trace: str | None = None) -> Result:
        """Record that the next stage did not come to its end; those after it are not tried."""
        stage = next(stage for stage in job.stages if stage not in self.stages)
        error = {"kind": kind, "message": message or kind}
        self.stages[stage] = {"status": "failed", "parameters": job.cell.parameters, "error": error}
        self.trace = trace
        return self


def _prune(job: Job) -> tuple[dict[str, Any], bytes]:
    """Play the recipe, and keep what came of it."""
    cell, (problem, baseline) = job.cell, loaded(job.cell.spec)
    result = prune_problem(problem, cell.recipe, timed=False, baseline=baseline)
    record, left = result.record, result.macs / baseline["macs"]
    content = {
        **{name: record[name] for name in KEPT},
        "data": problem.data.name,
        "goal_met": cell.goal.met(result.drop, left),
        "spent": {name: record["cost"][name] for name in SPENT},
        "time": {"seconds": record["time"]["pruning_s"]},
    }
    if job.timed:
        times = {"baseline": _base_timing(cell.spec), "pruned": timing(problem, result.model)}
        content["latency"] = {"batch": 1, "threads": torch.get_num_threads(), **times}
    return _packed(content, result.save)


def _scratch(cell: Cell, pruned: Mapping[str, Any]) -> tuple[dict[str, Any], bytes]:
    """Train the pruned shape from fresh weights (the control of Liu et al. 2019, *Rethinking the value*).

    As a recipe's finish trains, for the epochs that the recipe has in all; the best epoch on control is kept there too.
    """
    problem, started = loaded(cell.spec)[0].fresh(), time.monotonic()
    model = fresh_model(cell.spec.model, problem.data, derive(cell.spec.seed, "scratch"))
    fresh = Network(model.to(problem.device), problem.groups)
    network = fresh.remove(PruningPlan.from_json(pruned["plan"]), problem.groups)
    epochs = settle(cell.recipe, problem).epochs or pruned["epochs"]
    cycle = Cycle(replace(cell.recipe.finish, epochs=epochs))
    seed = derive(cell.spec.seed, "scratch", "training")
    trained = fit_cycle(problem, network.model, cycle, drop_of(problem, network.model), seed, Silent(), lambda: False)
    spent, seconds = problem.ledger.state_dict(), time.monotonic() - started
    content = {
        "data": problem.data.name,
        "pruned": describe(problem, network),
        "epochs": trained.epochs,
        "spent": {name: spent[name] for name in SPENT},
        "time": {"seconds": seconds},
    }
    meta = {"model": cell.spec.model, "classes": list(problem.data.classes), "plan": pruned["plan"]}
    return _packed(content, lambda path: save_pruned(path, problem.model, network.model, meta))


@lru_cache(maxsize=2)
def loaded(spec: ProblemSpec) -> tuple[PruningProblem, dict[str, Any]]:
    """A problem, and the figures of its unpruned network: once in a process.

    Nothing changes it, and whoever plays on it keeps books of its own, so that what a cell counts does not depend on
    what ran in the process before.
    """
    problem = spec.build()
    return problem, describe(problem, Network(problem.model, problem.groups))


@lru_cache(maxsize=2)
def _base_timing(spec: ProblemSpec) -> dict[str, float]:
    problem, _ = loaded(spec)
    return timing(problem, problem.model)


def _packed(content: dict[str, Any], save: Callable[[Path], str]) -> tuple[dict[str, Any], bytes]:
    """The content with the network's checksum, and the network's file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.pt"
        return {**content, "sha256": save(path)}, path.read_bytes()
