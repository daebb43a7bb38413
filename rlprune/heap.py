"""Freed memory that is kept for the next tensor.

The C library of most Linux systems (glibc) hands a freed tensor of some megabytes back to the system at once, and the
next one of its size faults in every page anew: a seventh of a training step of ResNet-20, a quarter of a scoring pass.
"""

from __future__ import annotations

import ctypes
import os
import sys
from functools import cache
from typing import Any

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # of mallopt(3)
KEPT = 2**30  # bytes, at most: what stays at the end of the heap, and the largest tensor that comes from there
SETTINGS = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")  # whoever sets these knows better


@cache
def keep_freed() -> None:
    """Let this process keep what it frees, from now on; elsewhere than with glibc nothing happens."""
    set_option = _of_libc("mallopt")
    if set_option is not None and not any(name in os.environ for name in SETTINGS):
        set_option(TRIM_THRESHOLD, KEPT)
        set_option(MMAP_THRESHOLD, KEPT)


def give_back() -> None:
    """Hand what is free to the system now, as when a run is over."""
    trim = _of_libc("malloc_trim")
    if trim is not None:
        trim(0)


@cache
def _of_libc(name: str) -> Any:
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None
