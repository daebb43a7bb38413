"""The comparison: every recipe on every network, data set, goal and seed, in a folder that can be gone on with.

    <folder>/
        comparison.json         settings, every cell's figures, and what they say together
        cells/<id>/cell.json    what the cell is
        cells/<id>/<stage>.json, <stage>.pt    what a stage gave: written whole, the JSON last
        cells/<id>/error.txt    where a stage failed

The files of the stages are all the state there is. Whoever starts the comparison again does what is missing, so it can
be killed at any moment, and a grid can be widened later.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from rlprune.agents.compare.cells import Job, Result
from rlprune.agents.compare.cluster import make_pool
from rlprune.agents.compare.settings import Cell, CompareSettings
from rlprune.agents.runs.playing import make_controller
from rlprune.agents.runs.processes import Pool, done
from rlprune.agents.runs.replaying import saved_network, trusted
from rlprune.criteria import get_criterion
from rlprune.errors import Notice, UserError, check_count, reading
from rlprune.files import read_json, write_bytes, write_json, write_text
from rlprune.locking import locked
from rlprune.network import Network
from rlprune.problem import PruningProblem
from rlprune.record import versions
from rlprune.recovery import make_recovery
from rlprune.report.analysis import analyse
from rlprune.typed import checked

FORMAT = "rlprune-comparison-2"
WRITE_EVERY_S = 10.0
"""`comparison.json` is brought up to date at most this often while cells come in."""


class Comparison:
    """A comparison in progress.

    Args:
        settings: What is compared.
        folder: Where its files are.
        command: The command line, for the record.

    Attributes:
        results: What is there so far, by cell and by stage.
    """

    def __init__(self, settings: CompareSettings, folder: Path, command: str = "") -> None:
        self.settings, self.folder, self.command = settings, folder, command
        self.cells = settings.cells()
        self.results: dict[str, dict[str, dict[str, Any]]] = {cell.id: {} for cell in self.cells}

    def load(self, *, retry_failed: bool = False) -> None:
        """Take in what an earlier process has written; raises UserError if that was something else."""
        for remains in self.folder.glob("**/.*.part"):
            remains.unlink(missing_ok=True)
        for cell in self.cells:
            for stage in cell.stages:
                path = self._file(cell, f"{stage}.json")
                try:
                    result = self._read(cell, stage, path) if path.exists() else None
                except UserError as error:  # a cell is no reason to lose the others
                    warnings.warn(f"{error}: this cell is done again", Notice, stacklevel=2)
                    continue
                if result is not None and result.get("parameters") != cell.parameters:
                    raise UserError(f"{path} was made with other settings; take those, or choose another --out")
                if result is not None and not (retry_failed and result["status"] == "failed"):
                    self.results[cell.id][stage] = result

    def _read(self, cell: Cell, stage: str, path: Path) -> dict[str, Any]:
        """A stage's result, if it is one that the whole can be made of."""
        with reading(path, "the result of a cell"):
            result: dict[str, Any] = checked(dict[str, Any], read_json(path), "the result")
            checked(Literal["finished", "failed"], result["status"], "status")
            stages = {**self.results[cell.id], stage: result}
            if result.get("parameters") == cell.parameters and "prune" in stages:
                told = {**cell.to_json(), "status": result["status"], "stages": stages}
                analyse([told], self.settings.reference)
        return result

    def jobs(self, timed: bool = False) -> list[Job]:
        """What is to do, seed by seed."""
        found = []
        for cell in self.cells:
            results = self.results[cell.id]
            missing = tuple(stage for stage in cell.stages if stage not in results)
            if missing and not self._failed(cell):
                found.append(Job(cell, missing, results.get("prune"), timed))
        return found

    def take(self, job: Job, result: Result) -> None:
        """Write what a job gave; a stage's JSON comes last, and says that the rest is there."""
        write_json(self._file(job.cell, "cell.json"), job.cell.to_json())
        if result.trace is not None:
            write_text(self._file(job.cell, "error.txt"), result.trace)
        for stage, content in result.stages.items():
            if stage in result.networks:
                write_bytes(self._file(job.cell, f"{stage}.pt"), result.networks[stage])
            write_json(self._file(job.cell, f"{stage}.json"), content)
            self.results[job.cell.id][stage] = content

    @property
    def done(self) -> int:
        """How many cells there is nothing to do for."""
        return len(self.cells) - len(self.jobs())

    def write(self) -> dict[str, Any]:
        """Bring `comparison.json` up to date; returns its content."""
        cells = [self._told(cell) for cell in self.cells]
        content = {
            "format": FORMAT,
            "name": self.settings.name,
            "status": "finished" if self.done == len(self.cells) else "running",
            "settings": self.settings.to_json(),
            "command": self.command,
            "versions": versions(),
            "cells": cells,
            "analysis": analyse(cells, self.settings.reference),
        }
        write_json(self.folder / "comparison.json", content)
        return content

    def _told(self, cell: Cell) -> dict[str, Any]:
        """A cell in `comparison.json`."""
        stages = {
            stage: {name: value for name, value in result.items() if name != "parameters"}
            for stage, result in self.results[cell.id].items()
        }
        failed = self._failed(cell)
        status = "failed" if failed else "finished" if len(stages) == len(cell.stages) else "running"
        return {**cell.to_json(), "status": status, **({"error": failed} if failed else {}), "stages": stages}

    def _failed(self, cell: Cell) -> dict[str, str] | None:
        """The error of the stage that failed."""
        return next((found["error"] for found in self.results[cell.id].values() if "error" in found), None)

    def _file(self, cell: Cell, name: str) -> Path:
        return self.folder / "cells" / cell.id / name


Watcher = Callable[[Comparison, Job, Result], None]


def compare(
    settings: CompareSettings,
    folder: Path,
    *,
    workers: int = 1,
    ray: str | None = None,
    retry_failed: bool = False,
    command: str = "",
    watcher: Watcher | None = None,
) -> dict[str, Any]:
    """Run what is missing of a comparison, and write `comparison.json`.

    The work is done in worker processes that are started afresh (spawned): a script that calls this keeps its own work
    under `if __name__ == "__main__":`.

    Args:
        settings: What is compared.
        folder: Where to write; what an earlier call has written there is not done again.
        workers: Processes of this machine. Latencies are measured where there is one alone.
        ray: Instead of those, the address of a Ray cluster, or `local`.
        retry_failed: Try again what failed before.
        command: The command line, for the record.
        watcher: Told of every cell that ends.

    Returns:
        The content of `comparison.json`.

    Raises:
        UserError: For what no cell could do, a folder that holds something else, or a cluster that cannot be reached.
            What fails inside a cell is recorded there and raises nothing.
    """
    check_count("--workers", workers)
    for recipe in settings.recipes.values():
        get_criterion(recipe.criterion)
        make_recovery(recipe.recovery)
        make_controller(recipe.controller, recipe.options)
    comparison = Comparison(settings, folder, command)
    with locked(folder, "comparison.json"):
        comparison.load(retry_failed=retry_failed)
        if comparison.jobs():
            pool = make_pool(workers, ray)
            try:
                comparison.write()
                _work(comparison, pool, watcher)
            finally:
                pool.close()
        return comparison.write()


def _work(comparison: Comparison, pool: Pool, watcher: Watcher | None) -> None:
    written = time.monotonic()
    for job, result in done(comparison.jobs(timed=pool.slots == 1), pool):
        comparison.take(job, result)
        if watcher is not None:
            watcher(comparison, job, result)
        if time.monotonic() - written > WRITE_EVERY_S:
            comparison.write()
            written = time.monotonic()


def rebuild_cell(
    folder: Path, stage: str, *, model: str | None = None, trust: bool = False
) -> tuple[PruningProblem, Network]:
    """The problem of a cell, built afresh, and the network a stage of it gave; `model` and `trust` as of `rebuild`.

    Raises:
        UserError: If the stage has not finished, or its files are missing or damaged.
    """
    file = folder / f"{stage}.json"
    with reading(file, "the result of a cell"):
        result = read_json(file)
        if result["status"] != "finished":
            raise UserError(f"{stage} of {folder} has {result['status']}; there is no network")
        record = {"plan": read_json(folder / "prune.json")["plan"], "sha256": result["sha256"]}
        spec = trusted(file, result["parameters"]["problem"], model, trust)
    problem = spec.build()
    return problem, saved_network(folder / f"{stage}.pt", record, problem)
