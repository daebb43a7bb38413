"""What every test may use."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import pytest
import torch

_made: list[str] = []


def pytest_configure(config: pytest.Config) -> None:
    # One cache for the session, child processes included: the user's own is neither read nor written.
    if "RLPRUNE_CACHE" not in os.environ:
        os.environ["RLPRUNE_CACHE"] = tempfile.mkdtemp(prefix="rlprune-cache-")
        _made.append(os.environ["RLPRUNE_CACHE"])
    if "PYTEST_XDIST_WORKER" in os.environ:
        torch.set_num_threads(1)


def pytest_unconfigure(config: pytest.Config) -> None:
    for folder in _made:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder with cifar10.npz, mnist.npz, weights/*.pt, aerial/, camvid/, bccd/ and roadsign/."""
    given = os.environ.get("RLPRUNE_TEST_DATA")
    if not given:
        pytest.skip("RLPRUNE_TEST_DATA is not set: give it the folder of the real data sets")
    if not Path(given).is_dir():
        pytest.skip(f"RLPRUNE_TEST_DATA is {given}, which is no folder")
    return Path(given)
