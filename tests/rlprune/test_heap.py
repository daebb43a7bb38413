"""Freed memory is kept for the next tensor, where the C library can."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from rlprune.heap import SETTINGS, _of_libc

FAULTS = """
import resource, torch
from rlprune.heap import keep_freed, keeping_activations

def faults(values):
    for _ in range(8):  # by which time a heap that keeps what it frees has grown to its size
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        kept = [torch.ones(values) for _ in range(2**25 // values)]  # 134 MB, 32,768 pages
        del kept
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

keep_freed()
print(faults(2**24), faults(2**21))
with keeping_activations():
    with keeping_activations():
        pass
    print(faults(2**24))
"""

pytestmark = pytest.mark.skipif(_of_libc("mallopt") is None, reason="the C library has no mallopt")


def faults(**environment: str) -> list[int]:
    """Page faults of tensors of 67 and of 8 MB, and of those of 67 MB in a pass."""
    clean = {name: value for name, value in os.environ.items() if name not in SETTINGS}
    done = subprocess.run(
        [sys.executable, "-c", FAULTS], env={**clean, **environment}, capture_output=True, text=True, check=True
    )
    return [int(number) for number in done.stdout.split()]


def test_a_freed_tensor_is_not_faulted_in_anew() -> None:
    large, small, in_a_pass = faults()
    assert max(small, in_a_pass) < 1_000 < 20_000 < large


def test_who_has_set_the_heap_by_hand_knows_better() -> None:
    assert min(faults(MALLOC_TRIM_THRESHOLD_="131072")) > 20_000
