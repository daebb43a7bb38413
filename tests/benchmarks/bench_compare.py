"""How much two worker processes help a comparison, and how long its defaults take.

    python tests/benchmarks/bench_compare.py            two workers against one, on a grid of equal cells
    python tests/benchmarks/bench_compare.py defaults   `rlprune compare --workers 2` with its defaults, report included

Needs two cores that have nothing else to do; minutes. One and two workers take turns, so that what the machine does
besides falls on both.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from rlprune.agents.compare.comparison import compare
from rlprune.agents.compare.settings import CompareSettings


def ratio(rounds: int = 3) -> None:
    """Wall time of one worker over that of two: the target is 1.7."""
    settings = CompareSettings(
        methods=("uniform", "random"),
        seeds=tuple(range(8)),
        budgets=(0.25,),
        epochs=0.0,
        changes={"random": {"episodes": 240}},
    )
    with tempfile.TemporaryDirectory() as scratch:
        compare(settings, Path(scratch) / "first", workers=2)  # trains and caches the base networks
        ratios = []
        for number in range(rounds):
            seconds = {}
            for workers in (1, 2):
                start = time.perf_counter()
                compare(settings, Path(scratch) / f"{number}-{workers}", workers=workers)
                seconds[workers] = time.perf_counter() - start
            ratios.append(seconds[1] / seconds[2])
            print(f"one worker {seconds[1]:.1f} s, two {seconds[2]:.1f} s, ratio {ratios[-1]:.2f}", flush=True)
    print(f"median ratio {median(ratios):.2f} (target 1.7)")


def defaults() -> None:
    """Wall time of the command with its defaults: the target is five minutes."""
    with tempfile.TemporaryDirectory() as scratch:
        start = time.perf_counter()
        out = str(Path(scratch) / "defaults")
        subprocess.run([sys.executable, "-m", "rlprune.cli", "compare", "--workers", "2", "--out", out], check=True)
        print(f"defaults: {time.perf_counter() - start:.0f} s (target 300)")


if __name__ == "__main__":
    defaults() if sys.argv[1:] == ["defaults"] else ratio()
