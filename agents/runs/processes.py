"""Worker processes on this machine: one job at a time each, one torch thread each, replaced when they die."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any, Protocol

ATTEMPTS = 2
"""How often a job may take its worker down before that is its result."""


class Job(Protocol):
    """Work in plain values, so that it can be sent to another process; what it gives can be sent back.

    Attributes:
        id: What tells it from the others.
    """

    @property
    def id(self) -> str: ...  # noqa: D102

    def run(self) -> Any:
        """Do it; raises nothing."""
        ...

    def died(self, message: str) -> Any:
        """What it gives where it takes its process down every time."""
        ...


class Pool(Protocol):
    """Runs jobs. As many as there are `slots` are under way at once."""

    slots: int

    def submit(self, job: Job) -> None:
        """Start a job; no more than `slots` at a time."""
        ...

    def results(self) -> Iterator[tuple[Any, Any]]:
        """Wait until at least one job has ended, and give those that have."""
        ...

    def close(self) -> None:
        """Stop everything; jobs under way are lost."""
        ...


@dataclass(eq=False)
class _Worker:
    process: SpawnProcess
    connection: Connection
    job: Job | None = None


def done(jobs: Iterable[Any], pool: Pool) -> Iterator[tuple[Any, Any]]:
    """Every job and what it gave, as they end; the next one starts where a slot is free."""
    queue, under_way = deque(jobs), 0
    while queue or under_way:
        while queue and under_way < pool.slots:
            pool.submit(queue.popleft())
            under_way += 1
        for job, result in pool.results():
            under_way -= 1
            yield job, result


@dataclass(eq=False)
class ProcessPool:
    """Jobs in spawned processes of this machine.

    A worker that dies (killed, out of memory, a crash in native code) is replaced, and its job tried again.

    Attributes:
        slots: How many processes.
    """

    slots: int
    _workers: list[_Worker] = field(default_factory=list)
    _deaths: Counter[str] = field(default_factory=Counter)

    def submit(self, job: Job) -> None:
        """Give a job to an idle worker, starting one if need be."""
        worker = next((worker for worker in self._workers if worker.job is None), None) or self._start()
        worker.job = job
        # If it died while idle, that is found out, and put right, when results are waited for.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            worker.connection.send(job)

    def results(self) -> Iterator[tuple[Any, Any]]:
        """Wait for the next results; deaths count only when a job has died `ATTEMPTS` times."""
        busy = {worker.connection: worker for worker in self._workers if worker.job is not None}
        for connection in wait(list(busy)):
            worker = busy[connection]  # type: ignore[index]
            job = worker.job
            assert job is not None
            try:
                result = worker.connection.recv()
                worker.job = None
            except (EOFError, ConnectionResetError):
                self._bury(worker)
                self._deaths[job.id] += 1
                if self._deaths[job.id] < ATTEMPTS:
                    self.submit(job)
                    continue
                why = 'memory ran out, or a script calls this outside of `if __name__ == "__main__":`'
                result = job.died(f"{ATTEMPTS} worker processes died of it; see if {why}")
            yield job, result

    def close(self) -> None:
        """Stop all workers now."""
        for worker in self._workers:
            worker.process.terminate()
        for worker in list(self._workers):
            self._bury(worker)

    def _start(self) -> _Worker:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        # One thread each from the first import on: the workers are the parallelism.
        restore = {name: os.environ.get(name) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
        os.environ.update(dict.fromkeys(restore, "1"))
        try:
            process = context.Process(target=serve, args=(theirs,), daemon=True)
            process.start()
        finally:
            for name, value in restore.items():
                os.environ.pop(name) if value is None else os.environ.__setitem__(name, value)
        theirs.close()
        worker = _Worker(process, ours)
        self._workers.append(worker)
        return worker

    def _bury(self, worker: _Worker) -> None:
        worker.connection.close()
        worker.process.join(10)
        if worker.process.is_alive():
            worker.process.kill()
            worker.process.join()
        self._workers.remove(worker)


def serve(connection: Connection) -> None:
    """A worker's life: take jobs until there are no more, or the parent is gone."""
    import torch

    sys.stdout = sys.stderr  # what a network prints is no result
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the parent, which closes the pool
    torch.set_num_threads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        while True:
            connection.send(connection.recv().run())
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return


def _end_with_parent() -> None:
    """A killed parent cannot stop its workers: they see that it is gone, and go."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
