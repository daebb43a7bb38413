"""Freed memory that is kept for the next tensor, and the search for memory to free.

The C library of most Linux systems (glibc) hands a freed tensor of some megabytes back to the system at once, and the
next one of its size faults in every page anew: a seventh of a training step of ResNet-20, a quarter of a scoring pass.
Elsewhere nothing here does anything.
"""

from __future__ import annotations

import ctypes
import gc
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # of mallopt(3)
KEPT = 2**30  # bytes at the end of the heap that are kept at most
TENSOR, ACTIVATIONS = 2**25, 2**30  # bytes of the largest tensor that comes from there, and inside a pass
SETTINGS = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")  # whoever sets these knows better

_passes = [0]  # how many are going on, one in another


@cache
def keep_freed() -> None:
    """Let this process keep what it frees, from now on."""
    _set(TRIM_THRESHOLD, KEPT)
    _set(MMAP_THRESHOLD, TENSOR)


@contextmanager
def keeping_activations() -> Iterator[None]:
    """Keep large tensors too while a network is trained or scored; what is measured on it is larger, and stays."""
    keep_freed()
    _passes[0] += 1
    _set(MMAP_THRESHOLD, ACTIVATIONS)
    try:
        yield
    finally:
        _passes[0] -= 1
        if not _passes[0]:
            _set(MMAP_THRESHOLD, TENSOR)


@contextmanager
def collecting_anew() -> Iterator[None]:
    """Look for garbage among new objects only; to go through all that a process holds takes tenths of a second."""
    frozen = gc.get_freeze_count()
    if not frozen:
        gc.freeze()
    try:
        yield
    finally:
        if not frozen:
            gc.unfreeze()


def give_back() -> None:
    """Hand what is free to the system now, as when a run is over."""
    trim = _of_libc("malloc_trim")
    if trim is not None:
        trim(0)


def _set(option: int, value: int) -> None:
    mallopt = _of_libc("mallopt")
    if mallopt is not None and not any(name in os.environ for name in SETTINGS):
        mallopt(option, value)


@cache
def _of_libc(name: str) -> Any:
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None
