"""A run folder from elsewhere runs no code unless its reader says so, whether it is looked at or gone on with."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from rlprune.agents.commands.sensitivity import ScanSettings
from rlprune.agents.compare.settings import CompareSettings
from rlprune.agents.rl.settings import AgentSettings
from rlprune.cli import main
from rlprune.envs.registration import MIXED
from rlprune.errors import UserError
from rlprune.files import read_json, write_json
from rlprune.spec import ProblemSpec
from rlprune.trust import check_code

NETWORK = """
from pathlib import Path
from rlprune.models.lenet import lenet5
with open({log!r}, "a") as log:
    log.write("x")

def build(num_classes=10, in_channels=1):
    return lenet5(num_classes, in_channels)
"""
QUICK = ["--method", "uniform", "--rounds", "1", "--epochs", "0", "--tolerance", "1", "--control-size", "60", "--quiet"]


def forget(monkeypatch: pytest.MonkeyPatch, user: Path | None = None) -> None:
    """What another process would not know; of another user, whose cache is elsewhere, what they have run before."""
    for name in [name for name in sys.modules if name.startswith("rlprune_file_")]:
        del sys.modules[name]
    if user is not None:
        monkeypatch.setenv("RLPRUNE_CACHE", str(user))


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
    log.unlink()
    return log


COMMANDS = [
    ["replay", "runs/one"],
    ["evaluate", "runs/one"],
    ["export", "runs/one", "--format", "pt2"],
    ["pareto", "runs", "--export", "one", "--out", "small.pt"],
]


def refused(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """In a line that names the file, who names it, and what can be done."""
    capsys.readouterr()
    assert main(argv) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "net.py" in line and "--trust" in line and "--model" in line and ".json" in line


def test_code_runs_only_if_it_is_trusted(
    foreign: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert read_json(Path("runs/one/record.json"))["model"] == "net.py:build"
    forget(monkeypatch, Path("stranger"))
    for argv in COMMANDS:
        refused(argv, capsys)
    for argv in (["report", "runs/one"], ["pareto", "runs"]):
        assert main(argv) == 0
    assert not foreign.exists(), "nothing of it has run"
    for argv in COMMANDS:
        assert main([*argv, "--model", "same.py:build"]) == 0
    assert not foreign.exists(), "another file was named"
    assert main([*COMMANDS[0], "--trust"]) == 0
    assert foreign.read_text() == "x"
    forget(monkeypatch)
    assert main(COMMANDS[0]) == 0, "what was trusted once is known"
    Path("net.py").write_text(Path("net.py").read_text() + "# changed")
    refused(COMMANDS[0], capsys)


@pytest.mark.parametrize("task", ["own.py:Task", "own.py", "heads:0=own.py;1=classification"])
def test_a_task_in_a_file_is_code(task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("own.py").touch()
    with pytest.raises(UserError, match=r"names own\.py .*--trust"):
        check_code(Path("record.json"), [ProblemSpec(model="lenet5", task=task)], trust=False)


def test_a_data_set_in_a_file_is_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("own.py").touch()
    named = [ProblemSpec(model="lenet5", data="own.py:Photos")]
    with pytest.raises(UserError, match=r"names own\.py .*add --trust$"):
        check_code(Path("record.json"), named, trust=False)
    check_code(Path("record.json"), named, trust=False, argv=["--data", "own.py:Photos"])
    check_code(Path("record.json"), named, trust=True)


def test_going_on_runs_only_code_that_its_user_has_run(
    foreign: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One's own run goes on without a question; one that was handed over, with any command, only if it is trusted."""
    record = Path("runs/one/record.json")
    write_json(record, {**read_json(record), "status": "running"})
    spec = ProblemSpec(model="net.py:build")
    write_json(Path("grid/comparison.json"), {"settings": CompareSettings(models=(spec.model,)).to_json()})
    write_json(Path("scan/settings.json"), ScanSettings(problem=spec).to_json())
    lessons = {"problems": [{"model": spec.model}], "budgets": [0.5], "tolerances": None, "max_rate": 0.9, "common": {}}
    write_json(Path("agent/settings.json"), AgentSettings(env=MIXED, env_kwargs=lessons).to_json())
    forget(monkeypatch, Path("stranger"))
    for command, out in (("train", "base"), ("compare", "grid"), ("sensitivity", "scan"), ("train-agent", "agent")):
        refused([command, "--resume", "--out", out], capsys)
    go_on = ["prune", "--resume", "--out", "runs/one", "--quiet"]
    refused(go_on, capsys)
    assert not foreign.exists(), "nothing of it has run"
    monkeypatch.undo()
    monkeypatch.chdir(foreign.parent)
    assert main(go_on) == 0 and foreign.read_text() == "x"
