"""Killed at random moments, or out of disk, a run goes on to the record and the tensors that it would have had."""

from __future__ import annotations

import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from rlprune.artifact import fingerprint
from rlprune.cli import main
from rlprune.files import read_json, read_tensors
from rlprune.seals import comparable

SMALL = ["--control-size", "60", "--calibration-size", "40"]
COMMANDS = {
    "prune": ["prune", "--epochs", "2", *SMALL],
    "train": ["train", "--epochs", "3", "--lr", "0.05", *SMALL],
    "compare": ["compare", "--methods", "uniform", "error", "--seeds", "0", "--budgets", "0.5", "--epochs", "0.5",
                "--scratch", "--no-report", *SMALL],
    "train-agent": ["train-agent", "--episodes", "12", "--segment", "12", "--set", "n_steps=8", *SMALL],
    "sensitivity": ["sensitivity", "--rates", "0.25", "0.5", *SMALL],
}  # fmt: skip
ENDS = {"prune": "record.json", "train": "record.json", "compare": "comparison.json", "train-agent": "agent.json",
        "sensitivity": "sensitivity.json"}  # fmt: skip

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux") or torch.cuda.is_available(), reason="forks processes that train on the CPU"
)


def log(folder: Path) -> Path:
    """What a run says of itself; not beside it, where the disk may be full."""
    return folder.parents[1] / f"{folder.name}.log"


def begun(argv: list[str], folder: Path, *more: str) -> Any:
    """A process of its own that runs a command; it has everything imported already."""
    words = [*argv, "--out", str(folder), "--quiet", *more]
    process = multiprocessing.get_context("fork").Process(target=_run, args=(words, log(folder)))
    process.start()
    return process


def _run(words: list[str], log: Path) -> None:
    with log.open("w") as file:
        os.dup2(file.fileno(), 2)
        sys.stderr = file
        status = main(words)
        file.flush()
    os._exit(status)


def ended(argv: list[str], folder: Path, *more: str) -> None:
    process = begun(argv, folder, *more)
    process.join()
    assert process.exitcode == 0, log(folder).read_text()


def outcome(name: str, folder: Path) -> Any:
    """All that counts of the end of a run: its record, and every tensor that it made."""
    networks = sorted(folder.rglob("*.pt"))
    tensors = [(file.relative_to(folder), fingerprint(read_tensors(file)["state_dict"])) for file in networks]
    return comparable(read_json(folder / ENDS[name])), tensors


def check_kills(name: str, folder: Path, kills: int, seed: int) -> int:
    """How many of so many kills came before the end."""
    argv, whole, killed, chance = COMMANDS[name], folder / "whole", folder / "killed", random.Random(seed)
    start = time.monotonic()
    ended(argv, whole)
    duration, early = time.monotonic() - start, 0
    for _ in range(kills):
        process = begun(argv, killed, "--resume")
        process.join(chance.uniform(0.05, 0.9) * duration)
        if process.is_alive():
            os.kill(process.pid, signal.SIGKILL)
            early += 1
        process.join()
        assert process.exitcode in (0, -signal.SIGKILL), log(killed).read_text()
        for file in killed.rglob("*.json"):
            read_json(file)  # never half a file
        if (killed / ENDS[name]).exists() and process.exitcode == 0:
            assert outcome(name, killed) == outcome(name, whole)
            shutil.rmtree(killed)
    ended(argv, killed, "--resume")
    assert outcome(name, killed) == outcome(name, whole)
    assert not [*killed.rglob(".*.part"), *killed.rglob("checkpoint*")]
    return early


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_killed_at_random_moments(name: str, tmp_path: Path) -> None:
    assert check_kills(name, tmp_path, 8, seed=len(name))


# A disk that is full ------------------------------------------------------------------------------------------------


def mount(folder: Path, *options: str) -> None:
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", ",".join(options), "tmpfs", str(folder)], check=True, capture_output=True
    )


@pytest.fixture
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A disk of so many bytes."""
    folder = tmp_path / "disk"
    folder.mkdir()
    try:
        mount(folder, f"size={request.param}")
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"cannot mount a tmpfs here: {error}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


# less than the networks that they write: 100 kB and more of a pruned one, 1.7 MB of a whole one
@pytest.mark.parametrize(("name", "disk"), [("prune", "64k"), ("train", "1536k")], indirect=["disk"])
def test_out_of_disk_it_says_so_and_goes_on_when_there_is_room(name: str, disk: Path, tmp_path: Path) -> None:
    argv, here = COMMANDS[name], disk / "run"
    process = begun(argv, here)
    process.join()
    lines = log(here).read_text().strip().splitlines()
    assert process.exitcode == 2 and len(lines) == 1 and "cannot write" in lines[0], lines
    assert not [*here.rglob("*.part"), *here.rglob("model.pt")], "nothing half-written"
    mount(disk, "remount", "size=32m")
    ended(argv, here, "--resume")
    ended(argv, tmp_path / "whole")
    assert outcome(name, here) == outcome(name, tmp_path / "whole")
