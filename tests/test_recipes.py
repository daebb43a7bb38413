"""The scripts in runs/ are commands that exist, with options that are right, and their table reads what they write."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rlprune.agents.runs.recipes import published_recipes
from rlprune.cli import main

RUNS = Path(__file__).resolve().parent.parent / "runs"
OWN = "other_tasks.sh"  # no paper's rows
BY_DEFAULT = {("camvid-unet-cpu.sh", "prc")}  # rows by the default command
SCRIPTS = sorted(path.name for path in RUNS.glob("*.sh") if path.name != "lib.sh")


def commands(script: str, folder: Path) -> list[list[str]]:
    """What a script would run."""
    fake = folder / "rlprune"
    fake.write_text(f'#!{sys.executable}\nimport shlex, sys\nprint(shlex.join(sys.argv[1:]), file=open("log", "a"))\n')
    fake.chmod(0o755)
    given = {"RLPRUNE": str(fake), "OUT": "out", "WEIGHTS": "weights.pt", "SEEDS": "0 1 2", "PYTHON": sys.executable}
    subprocess.run(["bash", str(RUNS / script)], cwd=folder, env={**os.environ, **given}, check=True)
    return [shlex.split(line) for line in (folder / "log").read_text().splitlines()]


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_command_is_understood(script: str, tmp_path: Path, monkeypatch: Any) -> None:
    seen: list[Any] = []

    def take(recipe: Any, spec: Any, given: dict[str, Any]) -> int:
        assert recipe.published == (script != OWN and (script, recipe.method) not in BY_DEFAULT)
        assert script == OWN or recipe.method in given["out"]
        seen.append((recipe, given["out"]))
        return 0

    def learn(settings: Any, folder: Any, **_: Any) -> dict[str, Any]:
        seen.append((settings, folder.path))
        return {}

    monkeypatch.setattr("rlprune.agents.commands.prune.run_prune", take)
    monkeypatch.setattr("rlprune.agents.runs.basetraining.train_base", learn)
    argvs = commands(script, tmp_path)
    monkeypatch.chdir(tmp_path)
    for argv in argvs:
        assert main([*argv, "--quiet"]) == 0, argv
    assert len(seen) == len(argvs) and len({path for _, path in seen}) == len(argvs), "each has a folder of its own"
    if script == OWN:
        assert len(argvs) == 8, "a base and a pruning of four tasks"
    elif script != "cpu-resnet20.sh":
        assert len(argvs) % 3 == 0, "three seeds"
    else:
        assert {recipe.method for recipe, _ in seen} == set(published_recipes())
    assert f"`{script}" in (RUNS / "README.md").read_text()


@pytest.mark.parametrize("script", ["cpu-resnet20.sh", "cifar10-prc.sh"])
def test_a_script_started_again_goes_on(script: str, tmp_path: Path) -> None:
    first = [argv for argv in commands(script, tmp_path) if argv[0] == "prune"]
    folders = [argv[argv.index("--out") + 1] for argv in first]
    for folder in folders:
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "record.json").write_text("{}")
    (tmp_path / "log").unlink()
    again = [argv for argv in commands(script, tmp_path) if argv[0] == "prune"]
    assert again == [["prune", "--resume", "--out", folder] for folder in folders]


def test_the_table_puts_seeds_together(tmp_path: Path) -> None:
    for seed, score in ((0, 0.93), (1, 0.95)):
        side = {"macs": 100, "parameters": 50, "test_score": 0.94}
        pruned = {"macs": 50, "parameters": 10, "test_score": score}
        folder = tmp_path / f"fpsl-vgg16-s{seed}"
        folder.mkdir()
        record = {"status": "finished", "baseline": side, "pruned": pruned}
        (folder / "record.json").write_text(json.dumps(record))
    files = map(str, tmp_path.glob("*/record.json"))
    run = subprocess.run([sys.executable, RUNS / "table.py", *files], capture_output=True, text=True, check=True)
    assert "| fpsl-vgg16 | 2 | 94.00 ± 0.00 | 94.00 ± 1.41 | 0.00 ± 1.41 | 2.00× fewer | 5.00× fewer |" in run.stdout
