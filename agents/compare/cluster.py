"""Jobs on a Ray cluster (the extra `rlprune[ray]`).

The driver alone writes files. A task that a dying node takes along is started again on another one by Ray; since a job
always gives the same, nothing is lost and nothing counts twice. The package and the data must be on every node.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from rlprune.agents.compare.cells import Job, Result
from rlprune.agents.runs.processes import Pool, ProcessPool
from rlprune.errors import UserError, first_line, needing

RETRIES = 5


def run_alone(job: Job) -> Result:
    """A cell with one torch thread, as the worker processes of one machine run it."""
    import torch

    torch.set_num_threads(1)
    return job.run()


@dataclass(eq=False)
class RayPool:
    """Jobs as Ray tasks.

    Attributes:
        slots: How many tasks to have under way.
    """

    slots: int
    _task: Any
    _ray: Any
    _running: dict[Any, Job] = field(default_factory=dict)

    @classmethod
    def connect(cls, address: str, workers: int | None = None) -> RayPool:
        """Connect to the cluster at `address`, or start one of this machine's cores with `local`.

        Raises:
            UserError: If Ray is not installed or the cluster cannot be reached.
        """
        with needing("--ray needs Ray", "ray"):
            import ray
        if not ray.is_initialized():
            _check_answers(address)
            try:
                ray.init(
                    address=None if address == "local" else address,
                    num_cpus=workers if address == "local" else None,
                    include_dashboard=False if address == "local" else None,
                    log_to_driver=False,
                )
            except (ConnectionError, RuntimeError, ValueError) as error:
                raise _unreachable(address, error) from None
        task = ray.remote(num_cpus=1, max_retries=RETRIES, scheduling_strategy="SPREAD")(run_alone)
        cores = int(ray.cluster_resources().get("CPU", 1))
        return cls(max(1, cores if address != "local" or workers is None else workers), task, ray)

    def submit(self, job: Job) -> None:
        """Start a task."""
        self._running[self._task.remote(job)] = job

    def results(self) -> Iterator[tuple[Job, Result]]:
        """Wait for the next task to end; one that Ray gave up on has failed."""
        ready, _ = self._ray.wait(list(self._running), num_returns=1)
        for reference in ready:
            job = self._running.pop(reference)
            try:
                result: Result = self._ray.get(reference)
            except self._ray.exceptions.RayError as error:
                why = f"Ray gave up after {RETRIES} tries: {first_line(error)}"
                result = Result().fail(job, type(error).__name__, why)
            yield job, result

    def close(self) -> None:
        """Leave the cluster; a local one ends."""
        self._running.clear()
        self._ray.shutdown()


def _check_answers(address: str) -> None:
    """Raise UserError if nobody listens at `host:port`; Ray itself would go on trying for many minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon:
        if address not in ("auto", "local"):
            raise UserError(f"--ray is {address!r}; it must be auto, local, or HOST:PORT")
        return
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except (OSError, ValueError) as error:
        raise _unreachable(address, error) from None


def _unreachable(address: str, error: Exception) -> UserError:
    return UserError(f"--ray {address} cannot be reached ({first_line(error)}); start it with `ray start --head`")


def make_pool(workers: int, ray: str | None = None) -> Pool:
    """Processes of this machine, or the Ray cluster at an address."""
    if ray is None:
        return ProcessPool(workers)
    pool: Any = RayPool.connect(ray, workers)
    return pool  # type: ignore[no-any-return]
