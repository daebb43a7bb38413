"""Models on another device than the CPU: on a device that every machine has, and on a GPU where there is one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from device_checks import CHECKS


@pytest.fixture(scope="session")
def foreign() -> dict[str, str | None]:
    """What every check said on the second device: None or a traceback."""
    script = Path(__file__).with_name("device_checks.py")
    run = subprocess.run([sys.executable, "-W", "error", str(script)], capture_output=True, text=True, timeout=600)
    assert run.returncode == 0, run.stderr
    return dict(json.loads(line) for line in run.stdout.splitlines())


@pytest.mark.parametrize("name", CHECKS)
def test_on_a_second_device(name: str, foreign: dict[str, str | None]) -> None:
    assert foreign[name] is None, foreign[name]


@pytest.mark.gpu
@pytest.mark.parametrize("name", CHECKS)
def test_on_a_gpu(name: str) -> None:
    CHECKS[name](torch.device("cuda"))
