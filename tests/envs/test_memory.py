"""Memory and descriptors stay flat, however long is played and however many environments are opened and closed."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from rlprune.envs import FilterPruningEnv
from rlprune.envs.arguments import shared_problem
from rlprune.heap import give_back
from rlprune.spec import ProblemSpec

SMALL = {"control_size": 60, "calibration_size": 40}
PAGE = os.sysconf("SC_PAGE_SIZE")

pytestmark = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc")


def memory() -> int:
    """Bytes of this process, without those that it keeps for the next tensor."""
    gc.collect()
    give_back()
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE


def descriptors() -> int:
    """Files that this process has open."""
    return len(os.listdir("/proc/self/fd"))


def play(env: FilterPruningEnv, steps: int) -> None:
    generator, over = np.random.default_rng(0), True
    for _ in range(steps):
        if over:
            env.reset()
        _, _, terminated, truncated, _ = env.step(generator.uniform(-1, 0.5, 1).astype(np.float32))
        over = terminated or truncated


def check_steps(steps: int, allowed: int, warm: int = 150) -> None:
    env = FilterPruningEnv(tolerance=0.3, max_rate=0.3, on_violation="retry", rounds=12, errors=True, **SMALL)
    play(env, warm)  # a library keeps kernels for the widths it saw last
    before, held = memory(), env.problem.measured.bytes
    play(env, steps)
    assert memory() - before < allowed
    assert env.problem.measured.bytes < 3 * held
    env.close()
    assert env.problem.measured.bytes == 0


def check_environments(number: int, folder: Path) -> None:
    for count in range(number + 5):
        env = FilterPruningEnv(cache=str(folder / f"{count % 3}.sqlite"), one_shot=True, budget=0.5, **SMALL)
        play(env, 5)
        env.close()
        if count == 4:
            before, opened = memory(), descriptors()
    assert descriptors() == opened
    assert memory() - before < 2**23


def test_steps_do_not_grow_memory() -> None:
    check_steps(200, 2**24)


def test_environments_that_are_closed_leave_nothing_open(tmp_path: Path) -> None:
    check_environments(10, tmp_path)


@pytest.mark.slow
def test_ten_thousand_steps_and_fifty_environments(tmp_path: Path) -> None:
    """Where oneDNN keeps 16 kernels, not 1,024, one a width; what is allowed is what a process's 2,048 scores take."""
    few = {**os.environ, "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "16"}
    done = subprocess.run([sys.executable, __file__, str(tmp_path)], env=few, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


if __name__ == "__main__":
    check_steps(10_000, 2**25, warm=1000)
    check_environments(50, Path(sys.argv[1]))
    assert shared_problem(ProblemSpec(**SMALL)).measured.bytes == 0
