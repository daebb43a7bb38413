"""Agents that come with the package: found by name, complete, and free of their makers' folders."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

from rlprune.agents import AgentSettings, load_agent, make_controller, train
from rlprune.agents.rl import assets
from rlprune.agents.rl.assets.__main__ import prepare, without_folders
from rlprune.cli import main
from rlprune.envs.registration import MIXED
from rlprune.errors import UserError
from rlprune.record import RunFolder

SMALL = {"control_size": 200, "calibration_size": 128}


def complete(name: str, tmp_path: Path) -> None:
    """Everything that an agent in the folder must have."""
    path = assets.agent_file(name)
    card = json.loads(path.with_suffix(".json").read_text())
    assert card["env"]["kwargs"]["problems"] and card["metrics"]["deterministic"] and card["command"]
    assert card["training"]["episodes"] > 0
    assert without_folders(card) == card, "no folder of the machine it was trained on"
    with zipfile.ZipFile(path) as archive:
        assert all(entry.endswith(".pth") or entry.startswith("_stable") for entry in archive.namelist())
    assert path.stat().st_size < 2**20
    out = tmp_path / name
    argv = ["episode", "--agent", name, "--control-size", "200", "--calibration-size", "128", "--budget", "0.5"]
    assert main([*argv, "--out", str(out), "--quiet"]) == 0
    record = RunFolder(out).read()
    assert record["settings"]["controller"] == f"agent:{name}"
    assert record["pruned"]["macs"] <= 0.5 * record["baseline"]["macs"]


@pytest.mark.parametrize("name", assets.names())
def test_every_agent_of_the_package(name: str, tmp_path: Path) -> None:
    complete(name, tmp_path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of one agent, `small`, that was trained in a folder of its own."""
    where = tmp_path_factory.mktemp("assets")
    kwargs: dict[str, Any] = {
        "problems": [{"model": "lenet5"}],
        "common": {**SMALL, "tolerance": 1.0},
        "budgets": [0.5],
    }
    quick = {"n_steps": 8, "n_epochs": 1}
    command = f"rlprune train-agent --models lenet5={where}/weights/lenet.pt --data {where}/digits.npz --out runs/one"
    settings = AgentSettings(env=MIXED, env_kwargs=kwargs, episodes=4, hyperparameters=quick)
    train(settings, where / "run", command=command)
    prepare(where / "run" / "agent.zip", "small", where)
    card = json.loads((where / "small.json").read_text())
    assert card["command"] == "rlprune train-agent --models lenet5=lenet.pt --data digits.npz --out runs/one"
    assert card["env"]["id"] == MIXED and str(where) not in json.dumps(card)
    return where


@pytest.fixture
def built_in(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(assets, "FOLDER", folder)
    return folder


def test_two_files_are_all_it_takes(built_in: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert assets.names() == ["small"]
    complete("small", tmp_path)
    assert main(["episode", "--help"]) == 0
    assert "(default: agent:small)" in " ".join(capsys.readouterr().out.split())
    one, other = load_agent("small"), load_agent(built_in / "run" / "agent.zip")
    assert one.model.policy.state_dict().keys() == other.model.policy.state_dict().keys()
    for name, tensor in one.model.policy.state_dict().items():
        assert tensor.equal(other.model.policy.state_dict()[name])
    assert load_agent("small").card == make_controller("agent:small").card  # type: ignore[attr-defined]


def test_it_plays_where_nobody_is_named(built_in: Path, tmp_path: Path) -> None:
    argv = ["episode", "--control-size", "200", "--calibration-size", "128", "--budget", "0.5", "--quiet"]
    assert main([*argv, "--out", str(tmp_path / "run")]) == 0
    assert RunFolder(tmp_path / "run").read()["settings"]["controller"] == "agent:small"


@pytest.mark.parametrize(
    "argv",
    [
        ["episode", "--agent", "smal"],
        ["prune", "--controller", "agent:smal"],
    ],
)
def test_an_unknown_name_gets_the_closest(
    argv: list[str], built_in: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(argv) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and "did you mean 'small'" in lines[0]


def test_without_any_agent_one_must_be_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(assets, "FOLDER", tmp_path)
    assert main(["episode"]) == 2
    assert "--agent" in capsys.readouterr().err
    with pytest.raises(UserError, match="no such file"):
        assets.agent_file("some/where.zip")
