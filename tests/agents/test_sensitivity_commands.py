"""The sensitivity scan from the command line: its files, going on after a kill, and who may read it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from rlprune.cli import main
from rlprune.files import read_json
from rlprune.scoring.sensitivity import Sensitivity

SMALL = ["--limit", "64", "--rates", "0.25,0.5,0.75"]


def scanned(folder: Path) -> Sensitivity:
    return Sensitivity.read(folder / "sensitivity.json")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished scan of LeNet-5."""
    folder = tmp_path_factory.mktemp("scans") / "whole"
    assert main(["sensitivity", *SMALL, "--out", str(folder), "--quiet"]) == 0
    return folder


def test_a_scan_is_written_drawn_and_printed(tmp_path: Path, whole: Path, capsys: Any) -> None:
    found = scanned(whole)
    assert list(found.scores) == ["conv1", "conv2", "fc1"]
    assert found.rates == (0.25, 0.5, 0.75) and all(len(line) == 3 for line in found.scores.values())
    with Image.open(whole / "sensitivity.png") as picture:
        assert picture.width > 600
    assert main(["sensitivity", *SMALL, "--groups", "conv*", "--out", str(tmp_path / "part")]) == 0
    output = capsys.readouterr()
    assert "baseline" in output.out and "conv2" in output.out and "100 %" in output.err
    part = scanned(tmp_path / "part")
    assert part.scores == {name: found.scores[name] for name in ("conv1", "conv2")}


def test_a_killed_scan_goes_on_and_ends_with_the_same_file(tmp_path: Path, whole: Path, capsys: Any) -> None:
    folder = tmp_path / "killed"
    command = [sys.executable, "-m", "rlprune.cli", "sensitivity", *SMALL, "--out", str(folder), "--quiet"]
    process = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"})
    file = folder / "sensitivity.json"
    while not file.exists() and process.poll() is None:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert main(["sensitivity", *SMALL, "--out", str(folder), "--quiet"]) == 2
    assert "add --resume" in capsys.readouterr().err
    assert main(["sensitivity", "--out", str(folder), "--resume", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == read_json(file)
    assert file.read_bytes() == (whole / "sensitivity.json").read_bytes()
    assert (folder / "sensitivity.png").exists() and not list(folder.glob(".*.part"))


def test_controllers_read_a_finished_scan(tmp_path: Path, whole: Path, capsys: Any) -> None:
    file = ["--sensitivity.file", str(whole / "sensitivity.json")]
    asked = ["episode", "--controller", "sensitivity", "--budget", "0.5", "--recovery", "lsq", "--json"]
    assert main([*asked, *file, "--out", str(tmp_path / "read")]) == 0
    read = json.loads(capsys.readouterr().out)
    assert main([*asked, "--sensitivity.limit", "64", "--out", str(tmp_path / "anew")]) == 0
    anew = json.loads(capsys.readouterr().out)
    assert read["pruned"]["macs"] <= 0.5 * read["baseline"]["macs"]
    assert read["cost"]["evaluations"] < anew["cost"]["evaluations"]
    other = ["--control-size", "200", "--calibration-size", "128", "--out", str(tmp_path / "other")]
    assert main([*asked, *file, *other]) == 2
    assert "other images" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--rates", "50"], "percentage"),
        (["--limit", "0"], "at least 1"),
        (["--groups", "layer9.*"], "inspect"),
        (["--criterion", "l11"], "did you mean 'l1'"),
        (["--recovery", "lsqq"], "did you mean 'lsq'"),
        (["--resume"], "--out"),
    ],
)
def test_mistakes_are_one_line(options: list[str], message: str, tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["sensitivity", *options]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.json"))


def test_resume_takes_no_other_settings(whole: Path, capsys: Any) -> None:
    assert main(["sensitivity", "--out", str(whole), "--resume", "--limit", "32"]) == 2
    assert "other settings" in capsys.readouterr().err
