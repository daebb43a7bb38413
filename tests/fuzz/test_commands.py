"""Every command that reads a file: with any file changed it gives status 0, or 2 and one line, and comes to an end."""

from __future__ import annotations

import json
import shutil
import signal
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from seeds import BINARIES, TEXTS, Seed, made, plain
from test_readers import QUIET, changed, damaged

from rlprune.cli import main
from rlprune.errors import Notice

SMALL = ["--control-size", "60", "--calibration-size", "40", "--quiet", "--out", "{}/out"]
LESSONS, GRID = TEXTS["training's settings"], TEXTS["comparison's settings"]
PLAY = ["episode", *SMALL, "--budget", "0.5", "--recovery", "none"]
# What a changed file could make long ends with a mistake of the command line, once the file has been read
COMMANDS = {
    "report": (TEXTS["record"], ["report", "{}", "--figures", "none"]),
    "report of a comparison": (TEXTS["comparison"], ["report", "{}", "--figures", "none"]),
    "report of a cell": (TEXTS["cell"], ["report", "{}", "--figures", "none"]),
    "report of a scan": (TEXTS["scan"], ["report", "{}"]),
    "pareto": (TEXTS["record"], ["pareto", "{}", "--all"]),
    "pareto of cells": (TEXTS["cell"], ["pareto", "{}", "--json"]),
    "pareto --export": (TEXTS["record"], ["pareto", "{}", "--export", "here", "--out", "{}/small.pt"]),
    "export": (BINARIES["pruned network"], ["export", "{}", "--format", "pt2"]),
    "replay": (TEXTS["record"], ["replay", "{}", "--json"]),
    "replay of a network": (BINARIES["pruned network"], ["replay", "{}"]),
    "evaluate": (BINARIES["weights"], ["evaluate", "--weights", "{}/w.pt"]),
    "evaluate a run": (TEXTS["record"], ["evaluate", "{}", "--json"]),
    "evaluate on arrays": (BINARIES["arrays"], ["evaluate", "--data", "{}/data.npz"]),
    "evaluate on pictures": (TEXTS["data set"], ["evaluate", "--data", "{}"]),
    "evaluate on boxes": (TEXTS["COCO"], ["evaluate", "--data", "{}", "--task", "detection"]),
    "inspect": (BINARIES["agent"], ["inspect", "--weights", "{}/agent.zip"]),
    "prune --recipe": (TEXTS["recipe"], ["prune", "--recipe", "{}/recipe.yml", "--data", "nowhere.npz"]),
    "prune --resume": (TEXTS["record"], ["prune", "--resume", "--out", "{}", "--rounds", "0"]),
    "train --resume": (TEXTS["record"], ["train", "--resume", "--out", "{}", "--lr", "0"]),
    "train-agent --resume": (LESSONS, ["train-agent", "--resume", "--out", "{}", "--workers", "0"]),
    "train-population --resume": (
        TEXTS["population"], ["train-population", "--resume", "--out", "{}", "--workers", "0"]
    ),
    "agents": (TEXTS["card"], ["agents", "{}/agent.zip", "--json"]),
    "train-agent --preset": (TEXTS["preset"], ["train-agent", "--preset", "{}/preset.yml", "--episodes", "2"]),
    "compare --resume": (GRID, ["compare", "--resume", "--out", "{}", "--workers", "0"]),
    "sensitivity --resume": (TEXTS["scan's settings"], ["sensitivity", "--resume", "--out", "{}", "--rates", "2"]),
    "episode of an agent": (TEXTS["card"], [*PLAY, "--agent", "{}/agent.zip"]),
    "episode of a damaged agent": (BINARIES["agent"], [*PLAY, "--agent", "{}/agent.zip"]),
    "episode by a scan": (
        TEXTS["scan"], [*PLAY, "--controller", "sensitivity", "--sensitivity.file", "{}/sensitivity.json"]
    ),
    "episode by rates": (TEXTS["rates"], [*PLAY, "--controller", "table", "--table.file", "{}/rates.json"]),
}  # fmt: skip
INPUTS, LONGEST_S = 2000, 60
FEW = settings(max_examples=3, **QUIET)  # type: ignore[arg-type]
MANY = settings(max_examples=-(-INPUTS // len(COMMANDS)), **QUIET)  # type: ignore[arg-type]


class Hang(BaseException):
    """A command has taken a minute of processor time, or ten on the clock."""


@pytest.fixture(autouse=True)
def _bounded() -> Iterator[None]:
    def end(*_: object) -> None:
        raise Hang

    before = [signal.signal(number, end) for number in (signal.SIGALRM, signal.SIGPROF)]
    yield
    for number, handler in zip((signal.SIGALRM, signal.SIGPROF), before, strict=True):
        signal.signal(number, handler)


@pytest.fixture(scope="module", params=COMMANDS)
def command(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Seed, Path, list[str]]:
    seed, argv = COMMANDS[request.param]
    return seed, made(seed, tmp_path_factory.mktemp("command") / "whole"), argv


def check(data: st.DataObject, command: tuple[Seed, Path, list[str]], capsys: pytest.CaptureFixture[str]) -> None:
    seed, whole, argv = command
    folder = whole.with_name("here")
    file = shutil.copytree(whole, folder) / seed.file
    try:
        if seed in TEXTS.values():
            text = file.read_text()
            plain(file, changed(data, json.loads(text) if file.suffix == ".json" else yaml.safe_load(text)))
        else:
            file.write_bytes(damaged(data, file.read_bytes()))
        capsys.readouterr()
        signal.alarm(10 * LONGEST_S)
        signal.setitimer(signal.ITIMER_PROF, LONGEST_S)
        with warnings.catch_warnings():
            warnings.simplefilter("default", Notice)  # a line on the error stream, as outside of tests
            status = main([word.format(folder) for word in argv])
        lines = capsys.readouterr().err.strip().splitlines()
        assert status in (0, 2) and all(line.startswith("rlprune ") for line in lines), lines
        assert status == 0 or lines
    finally:
        signal.alarm(0)
        signal.setitimer(signal.ITIMER_PROF, 0)
        shutil.rmtree(folder)


@FEW
@given(st.data())
def test_an_input(
    command: tuple[Seed, Path, list[str]], capsys: pytest.CaptureFixture[str], data: st.DataObject
) -> None:
    check(data, command, capsys)


@pytest.mark.slow
@MANY
@given(st.data())
def test_many_inputs(
    command: tuple[Seed, Path, list[str]], capsys: pytest.CaptureFixture[str], data: st.DataObject
) -> None:
    check(data, command, capsys)


def test_every_command_that_reads_a_file_is_here() -> None:
    from rlprune.cli import COMMANDS as EVERY

    assert {argv[0] for _, argv in COMMANDS.values()} == set(EVERY) - {"methods"}
