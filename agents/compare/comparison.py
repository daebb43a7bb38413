"""The comparison: every controller on every network, data set, goal and seed, in a folder that can be gone on with.

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
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlprune.agents.compare.processes import Pool, make_pool
from rlprune.agents.compare.settings import Cell, CompareSettings
from rlprune.agents.compare.stages import Job, Result, fresh_problem, jobs_of, unpack, with_pruned
from rlprune.errors import UserError
from rlprune.files import read_json, write_json, write_text, write_whole
from rlprune.network import Network
from rlprune.problem import PruningProblem
from rlprune.record import versions
from rlprune.report.analysis import analyse
from rlprune.spec import ProblemSpec

FORMAT = "rlprune-comparison-1"
WRITE_EVERY_S = 10.0
"""`comparison.json` is brought up to date at most this often while cells come in."""


@dataclass(frozen=True)
class CellFolder:
    """The files of one cell."""

    path: Path

    def result_file(self, stage: str) -> Path:
        """What a stage gave."""
        return self.path / f"{stage}.json"

    def network_file(self, stage: str) -> Path:
        """The network a stage gave; `load_pruned` reads it."""
        return self.path / f"{stage}.pt"

    def read(self, job: Job) -> dict[str, Any] | None:
        """A stage's result, or None if it has none yet.

        Raises:
            UserError: If the result was made with other settings.
        """
        path = self.result_file(job.stage)
        if not path.exists():
            return None
        result: dict[str, Any] = read_json(path)
        if result.get("parameters") != job.parameters:
            raise UserError(f"{path} was made with other settings; take those, or choose another --out")
        return result

    def write(self, job: Job, result: Result) -> None:
        """Write what a stage gave; the JSON comes last, and says that the rest is there."""
        write_json(self.path / "cell.json", job.cell.to_json())
        if result.trace is not None:
            write_text(self.path / "error.txt", result.trace)
        if result.network is not None:
            content = result.network
            write_whole(self.network_file(job.stage), lambda file: file.write(content))
        write_json(self.result_file(job.stage), result.content)


@dataclass
class Comparison:
    """A comparison in progress.

    Attributes:
        settings: What is compared.
        folder: Where its files are.
        command: The command line, for the record.
        results: What is there so far, by cell and stage.
    """

    settings: CompareSettings
    folder: Path
    command: str = ""
    results: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.cells = self.settings.cells()
        self._jobs = {(job.cell.id, job.stage): job for cell in self.cells for job in jobs_of(self.settings, cell)}

    @property
    def total(self) -> int:
        """How many stages there are in all."""
        return len(self._jobs)

    def load(self, *, retry_failed: bool = False) -> None:
        """Take in what an earlier process has written; raises UserError if that was something else."""
        if (self.folder / "record.json").exists():
            raise UserError(f"{self.folder} holds a run of another kind; choose another --out")
        for remains in self.folder.glob("**/.*.part"):
            remains.unlink(missing_ok=True)
        for key, job in self._jobs.items():
            result = self._cell_folder(job.cell).read(job)
            if result is None or (retry_failed and result["status"] == "failed"):
                continue
            self.results[key] = result

    def ready(self) -> list[Job]:
        """The stages that can start now, seed by seed; those of a cell that failed to prune never can."""
        found = []
        for key, job in self._jobs.items():
            if key in self.results:
                continue
            if job.stage == "prune" or self.results.get((job.cell.id, "prune"), {}).get("status") == "finished":
                found.append(job)
        return found

    def complete(self, job: Job) -> Job:
        """The job with the pruned network that it starts from."""
        if job.stage == "prune":
            return job
        network = self._cell_folder(job.cell).network_file("prune").read_bytes()
        return with_pruned(job, self.results[(job.cell.id, "prune")], network)

    def take(self, job: Job, result: Result) -> None:
        """Write what a stage gave."""
        self._cell_folder(job.cell).write(job, result)
        self.results[(job.cell.id, job.stage)] = result.content

    @property
    def done(self) -> int:
        """How many stages have a result, or never will."""
        return self.total - sum(key not in self.results and not self._barred(job) for key, job in self._jobs.items())

    def _barred(self, job: Job) -> bool:
        return self.results.get((job.cell.id, "prune"), {}).get("status") == "failed"

    def to_json(self) -> dict[str, Any]:
        """The content of `comparison.json`."""
        cells = [self._cell_json(cell) for cell in self.cells]
        return {
            "format": FORMAT,
            "name": self.settings.name,
            "status": "finished" if self.done == self.total else "running",
            "settings": self.settings.to_json(),
            "command": self.command,
            "versions": versions(),
            "cells": cells,
            "analysis": analyse(cells, self.settings.shown[self.settings.baseline]),
        }

    def write(self) -> dict[str, Any]:
        """Bring `comparison.json` up to date; returns its content."""
        content = self.to_json()
        write_json(self.folder / "comparison.json", content)
        return content

    def _cell_json(self, cell: Cell) -> dict[str, Any]:
        stages = {
            stage: {key: value for key, value in self.results[(cell.id, stage)].items() if key != "parameters"}
            for stage in self.settings.tune.stages
            if (cell.id, stage) in self.results
        }
        broken = [stage for stage in stages.values() if stage["status"] == "failed"]
        whole = len(stages) == len(self.settings.tune.stages)
        status = "failed" if broken else "finished" if whole else "running"
        error = {"error": broken[0]["error"]} if broken else {}
        return {**cell.to_json(), "status": status, **error, "stages": stages}

    def _cell_folder(self, cell: Cell) -> CellFolder:
        return CellFolder(self.folder / "cells" / cell.id)


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
        workers: Processes of this machine.
        ray: Instead of those, the address of a Ray cluster, or `local`.
        retry_failed: Try again what failed before.
        command: The command line, for the record.
        watcher: Told of every stage that ends.

    Returns:
        The content of `comparison.json`.

    Raises:
        UserError: If the folder holds something else, or the cluster cannot be reached. What fails inside a cell is
            recorded there and raises nothing.
    """
    if workers < 1:
        raise UserError(f"--workers is {workers}; it must be at least 1")
    comparison = Comparison(settings, folder, command)
    comparison.load(retry_failed=retry_failed)
    if comparison.ready():
        comparison.write()
        pool = make_pool(workers, ray)
        try:
            _work(comparison, pool, watcher)
        finally:
            pool.close()
    return comparison.write()


def _work(comparison: Comparison, pool: Pool, watcher: Watcher | None) -> None:
    queue = deque(comparison.ready())
    under_way, written = 0, time.monotonic()
    while queue or under_way:
        while queue and under_way < pool.slots:
            pool.submit(comparison.complete(queue.popleft()))
            under_way += 1
        for job, result in pool.results():
            under_way -= 1
            if "latency" in result.content:  # the report marks it, and ranks nobody by it
                result.content["latency"]["parallel"] = pool.slots > 1
            comparison.take(job, result)
            if job.stage == "prune" and result.content["status"] == "finished":
                # Next, so that a cell is whole early; they are independent of each other.
                queue.extendleft(reversed([other for other in comparison.ready() if other.cell == job.cell]))
            if watcher is not None:
                watcher(comparison, job, result)
        if time.monotonic() - written > WRITE_EVERY_S:
            comparison.write()
            written = time.monotonic()


def rebuild_cell(folder: Path, stage: str) -> tuple[PruningProblem, Network]:
    """The problem of a cell, and the network a stage of it gave.

    Raises:
        UserError: If the stage has not finished, or its files are missing or damaged.
    """
    files = CellFolder(folder)
    result = read_json(files.result_file(stage))
    if result["status"] != "finished":
        raise UserError(f"{stage} of {folder} has {result['status']}; there is no network")
    if not files.network_file(stage).exists():
        raise UserError(f"no such file: {files.network_file(stage)}")
    plan = read_json(files.result_file("prune"))["plan"]
    problem, _ = fresh_problem(ProblemSpec.from_json(result["parameters"]["problem"]))
    return problem, unpack(problem, plan, files.network_file(stage).read_bytes())


def newest_unfinished(parents: Iterable[Path]) -> Path | None:
    """The comparison under one of the folders that was written to last and is not finished, or None."""
    found = [path for parent in parents for path in parent.glob("*/comparison.json")]
    found.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    return next((path.parent for path in found if read_json(path).get("status") != "finished"), None)
