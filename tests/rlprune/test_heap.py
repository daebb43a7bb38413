"""Freed memory is kept for the next tensor, where the C library can."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from rlprune.heap import SETTINGS, _of_libc

FAULTS = """
import resource, torch
from rlprune.heap import keep_freed
keep_freed()
for _ in range(3):  # by which time a heap that keeps what it frees has grown to its size
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    kept = [torch.ones(2**21) for _ in range(20)]  # 168 MB, 40,960 pages
    del kept
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""

pytestmark = pytest.mark.skipif(_of_libc("mallopt") is None, reason="the C library has no mallopt")


def faults(**environment: str) -> int:
    clean = {name: value for name, value in os.environ.items() if name not in SETTINGS}
    done = subprocess.run(
        [sys.executable, "-c", FAULTS], env={**clean, **environment}, capture_output=True, text=True, check=True
    )
    return int(done.stdout)


def test_a_freed_tensor_is_not_faulted_in_anew() -> None:
    assert faults() < 1_000


def test_who_has_set_the_heap_by_hand_knows_better() -> None:
    assert faults(MALLOC_TRIM_THRESHOLD_="131072") > 20_000
