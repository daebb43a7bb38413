"""A run folder from elsewhere runs no code unless its reader says so."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from rlprune.cli import main
from rlprune.files import read_json

NETWORK = """
from pathlib import Path
from rlprune.models.lenet import lenet5
with open({log!r}, "a") as log:
    log.write("x")

def build(num_classes=10, in_channels=1):
    return lenet5(num_classes, in_channels)
"""
QUICK = ["--method", "uniform", "--rounds", "1", "--epochs", "0", "--tolerance", "1", "--control-size", "60", "--quiet"]


def forget() -> None:
    """What another process would not know."""
    for name in [name for name in sys.modules if name.startswith("rlprune_file_")]:
        del sys.modules[name]


@pytest.fixture
def foreign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The log that the network's file writes to; the run is in `runs/one`."""
    monkeypatch.chdir(tmp_path)
    log = tmp_path / "log"
    (tmp_path / "net.py").write_text(NETWORK.format(log=str(log)))
    (tmp_path / "same.py").write_text(NETWORK.format(log=str(tmp_path / "other")))
    made = ["--epochs", "1", "--out", "base", "--quiet", "--calibration-size", "40", "--control-size", "60"]
    assert main(["train", "--model", "net.py:build", *made]) == 0
    network = ["--model", "net.py:build", "--weights", "base/model.pt"]
    assert main(["prune", *network, *QUICK, "--out", "runs/one"]) == 0
    forget()
    log.unlink()
    return log


COMMANDS = [
    ["replay", "runs/one"],
    ["export", "runs/one", "--format", "pt2"],
    ["pareto", "runs", "--export", "one", "--out", "small.pt"],
]


def test_code_runs_only_if_it_is_trusted(foreign: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert read_json(Path("runs/one/record.json"))["model"] == "net.py:build"
    for argv in COMMANDS:
        capsys.readouterr()
        assert main(argv) == 2
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert "net.py" in line and "--trust" in line and "--model" in line and "record.json" in line
    for argv in (["report", "runs/one"], ["pareto", "runs"]):
        assert main(argv) == 0
    assert not foreign.exists(), "nothing of it has run"
    for argv in COMMANDS:
        assert main([*argv, "--model", "same.py:build"]) == 0
    assert not foreign.exists(), "another file was named"
    forget()
    assert main([*COMMANDS[0], "--trust"]) == 0
    assert foreign.read_text() == "x"
