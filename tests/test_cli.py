"""The commands that look at a network or a run, through the command line."""

import json

import numpy as np
import pytest

from rlprune.cli import main


@pytest.fixture
def arrays(tmp_path):
    rng = np.random.default_rng(0)
    images = {"train": (300, 32, 32, 3), "test": (100, 32, 32, 3)}
    content = {name: rng.integers(0, 255, shape, dtype=np.uint8) for name, shape in images.items()}
    labels = {f"{name}_labels": np.arange(shape[0]) % 10 for name, shape in images.items()}
    np.savez(tmp_path / "noise.npz", **content, **labels)
    return str(tmp_path / "noise.npz")


def test_inspect_needs_no_weights(arrays, capsys):
    assert main(["inspect", "--model", "resnet20", "--data", arrays, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {"layer1.0.conv1", "layer3.2.conv1"} <= {g["name"] for g in found["groups"] if g["locked"] is None}
    assert all(g["locked"] for g in found["groups"] if g["name"] == "linear")


def test_inspect_prints_every_lock_with_its_reason(arrays, capsys):
    assert main(["inspect", "--model", "resnet20", "--data", arrays, "--keep", "layer1.*"]) == 0
    assert "locked layer1.0.conv1: " in capsys.readouterr().out


def test_evaluate_gives_scores_and_cost(capsys):
    assert main(["evaluate", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["test_score"] > 0.95 and found["control_score"] > 0.95
    assert (found["macs"], found["parameters"]) == (3_297_000, 431_080)


def test_a_run_is_replayed_and_exported(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["prune", "--controller", "uniform", "--rounds", "1", "--out", "run", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert main(["replay", "run", "--json"]) == 0
    checks = {check["name"]: check["replayed"] for check in json.loads(capsys.readouterr().out)["checks"]}
    assert checks["test_score"] == record["pruned"]["test_score"]
    assert main(["export", "run", "--format", "pt2"]) == 0
    assert (tmp_path / "run" / "model.pt2").exists()
