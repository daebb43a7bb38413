"""The scripts of runs/ that prune inside other people's training loops do what they say, on data made there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

RUNS = Path(__file__).resolve().parent.parent / "runs"
SCRIPTS = {"with_timm": ("timm",), "with_hf_trainer": ("transformers", "accelerate")}


def test_all_are_short() -> None:
    found = {path.stem: len(path.read_text().splitlines()) for path in RUNS.glob("with_*.py")}
    assert found.keys() == SCRIPTS.keys() and max(found.values()) <= 60


@pytest.mark.slow
@pytest.mark.parametrize("name", SCRIPTS)
def test_the_tolerance_is_kept_at_half_the_macs(name: str, tmp_path: Path) -> None:
    for package in SCRIPTS[name]:
        pytest.importorskip(package)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(RUNS / f"{name}.py"), str(tmp_path / "out")]
    run = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    found = re.search(r"([0-9.]+) of the MACs at a drop of (-?[0-9.]+)", run.stdout)
    assert run.returncode == 0 and found, run.stderr[-2000:]
    assert float(found[1]) <= 0.5 and float(found[2]) <= 0.02
    assert (tmp_path / "out" / "model.pt").exists()
