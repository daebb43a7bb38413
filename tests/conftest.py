"""What every test may use."""

from __future__ import annotations

import os
import shlex
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

_made: list[str] = []


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """A file's tests go to one worker, so that what they share is made once and not once a worker."""
    if config.getoption("dist") != "load":
        return None
    from xdist.scheduler import LoadFileScheduling

    return LoadFileScheduling(config, log)


def pytest_configure(config: pytest.Config) -> None:
    # One cache for the session, child processes included: the user's own is neither read nor written.
    if "RLPRUNE_CACHE" not in os.environ:
        os.environ["RLPRUNE_CACHE"] = tempfile.mkdtemp(prefix="rlprune-cache-")
        _made.append(os.environ["RLPRUNE_CACHE"])
    # One thread here and in every process that a test starts: the tests themselves are the parallelism, and threads
    # that outnumber the cores wait for one another in loops that burn processor time.
    for library in ("OMP", "MKL", "OPENBLAS"):
        os.environ.setdefault(f"{library}_NUM_THREADS", "1")
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


@pytest.fixture
def complains(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[[str, Path, str], None]:
    """Checks that a command line, given in a folder, is a mistake told in one line that holds a text."""
    from rlprune.cli import main

    def check(line: str, folder: Path, text: str) -> None:
        monkeypatch.chdir(folder)
        assert main(shlex.split(line)) == 2
        said = capsys.readouterr()
        (complaint,) = said.err.strip().splitlines()
        assert complaint.startswith(f"rlprune {line.split()[0]}: ") and text in complaint, complaint
        assert not said.out

    return check


class _Killed(BaseException):
    pass


@pytest.fixture
def Killed() -> type[BaseException]:
    """What stands for a kill: nothing catches it."""
    return _Killed
