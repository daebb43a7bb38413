"""Environments in worker processes: one torch thread each, since the workers are the parallelism."""

from __future__ import annotations

import multiprocessing

import torch


def single_thread_in_workers() -> None:
    """Set torch to one thread if this process was started by another one through `multiprocessing`."""
    if multiprocessing.parent_process() is not None and torch.get_num_threads() != 1:
        torch.set_num_threads(1)
