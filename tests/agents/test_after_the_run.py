"""After a run its folder is enough: it is looked at, checked and exported from any working directory."""

import json
import shutil

import numpy as np
import pytest
import torch

from rlprune.artifact import load_pruned
from rlprune.cli import main
from rlprune.models import create_model

MODEL = """
from rlprune.models import create_model
def build(num_classes, in_channels): return create_model("lenet5")
"""


@pytest.fixture(scope="module")
def pruned(tmp_path_factory):
    """A project folder whose run `runs/r` names files of it by relative paths; `runs/s` prunes that once more."""
    project = tmp_path_factory.mktemp("project")
    rng = np.random.default_rng(0)
    sizes = {"train": 60, "test": 40}
    images = {name: rng.integers(0, 255, (n, 32, 32), dtype=np.uint8) for name, n in sizes.items()}
    np.savez(project / "noise.npz", **images, **{f"{name}_labels": np.arange(n) % 10 for name, n in sizes.items()})
    (project / "net.py").write_text(MODEL)
    torch.save(create_model("lenet5").state_dict(), project / "w.pt")
    common = ["prune", "--model", "net.py:build", "--data", "noise.npz", "--method", "uniform", "--tolerance", "1"]
    common += ["--rounds", "1", "--epochs", "0", "--recovery", "none", "--quiet"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(project)
        for weights, out in (("w.pt", "runs/r"), ("runs/r/model.pt", "runs/s")):
            assert main([*common, "--weights", weights, "--out", out]) == 0
    return project


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_command_works_from_elsewhere(pruned, elsewhere, capsys):
    run = str(pruned / "runs" / "r")
    for argv in (["replay", run], ["report", run, "--figures", "none"], ["export", run, "--format", "pt2"]):
        assert main(argv) == 0, argv
    assert main(["pareto", str(pruned / "runs"), "--all", "--export", "r", "--out", "best.pt"]) == 0
    assert (elsewhere / "best.pt").exists()
    assert not capsys.readouterr().err


def test_export_needs_no_data(pruned, elsewhere):
    shutil.copytree(pruned, elsewhere / "moved", ignore=shutil.ignore_patterns("noise.npz", "w.pt"))
    for run in ("r", "s"):
        assert main(["export", f"moved/runs/{run}", "--format", "pt2", "--out", f"{run}.pt2", "--trust"]) == 0
        assert (elsewhere / f"{run}.pt2").exists()


def test_a_file_that_is_gone_is_named_with_where_it_was_looked_for(pruned, elsewhere, capsys):
    shutil.copytree(pruned, elsewhere / "moved", ignore=shutil.ignore_patterns("noise.npz"))
    assert main(["replay", "moved/runs/r"]) == 2
    line = capsys.readouterr().err.strip()
    assert "noise.npz" in line and str(elsewhere / "moved" / "runs" / "r") in line and "\n" not in line


def test_a_run_is_scored_on_its_own_splits(pruned, elsewhere, capsys):
    run = pruned / "runs" / "r"
    assert main(["evaluate", str(run), "--json"]) == 0
    found, record = json.loads(capsys.readouterr().out), json.loads((run / "record.json").read_text())
    assert found == {name: record["pruned"][name] for name in found}


def test_a_network_pruned_twice_loads_into_the_unpruned_one(pruned):
    """Also attributes that only the first pruning changed are in the second's file."""
    twice = load_pruned(pruned / "runs" / "s" / "model.pt", create_model("lenet5"))
    assert [m.out_channels for m in twice.modules() if isinstance(m, torch.nn.Conv2d)] == [
        m.weight.shape[0] for m in twice.modules() if isinstance(m, torch.nn.Conv2d)
    ]
    twice(torch.rand(1, 1, 32, 32))
