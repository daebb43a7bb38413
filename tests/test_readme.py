"""What the README shows works as printed."""

import inspect
import re
from pathlib import Path

import pytest
import torch

import rlprune
from rlprune.cli import main
from rlprune.models import create_model

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
BLOCKS = dict(re.findall(r"^#+ ([^\n]+)$(?:(?!^#).)*?```python\n(.*?)```", README, re.MULTILINE | re.DOTALL))


@pytest.mark.skipif("control" not in inspect.signature(rlprune.prune).parameters, reason="without the Python road")
def test_the_ten_lines_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = BLOCKS["Ten lines of Python"]
    assert len([line for line in code.splitlines() if line.strip()]) <= 11
    scope = {}
    torch.manual_seed(0)
    exec(code, scope)
    result, (images, labels) = scope["result"], scope["control"]
    right = [float((model(images).argmax(1) == labels).float().mean()) for model in (scope["model"], result.model)]
    assert right[0] > 0.85 and right[0] - right[1] <= 0.01 + 1e-6
    assert result.drop <= 0.01 and not list(tmp_path.iterdir())


def test_the_front_door_is_short():
    assert len(README.splitlines()) <= 150


def test_the_loader_gives_the_pruned_network(tmp_path, monkeypatch):
    """The README's loader, word for word, on a run made by the command line."""
    monkeypatch.chdir(tmp_path)
    assert main(["prune", "--controller", "uniform", "--rounds", "1", "--out", "runs/NAME", "--quiet"]) == 0
    scope = {"build": lambda: create_model("lenet5")}
    exec(BLOCKS["What a run leaves behind"], scope)
    saved = torch.load("runs/NAME/model.pt", weights_only=True)["state_dict"]
    assert all(torch.equal(tensor, saved[name]) for name, tensor in scope["model"].state_dict().items())
    assert scope["model"](torch.rand(1, 1, 32, 32)).shape == (1, 10)


@pytest.mark.parametrize("name", ["README.md", "runs/README.md", "runs/RESULTS.md"])
def test_every_local_link_and_picture_exists(name):
    targets = re.findall(r"\]\(([^)#]+)\)", (ROOT / name).read_text())
    missing = [target for target in targets if "://" not in target and not ((ROOT / name).parent / target).exists()]
    assert not missing


@pytest.mark.slow
def test_the_environment_block_runs(capsys):
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    (code,) = [block for block in blocks if "gymnasium.make" in block]
    exec(code, {})
    share, drop = map(float, capsys.readouterr().out.split())
    assert share < 1 and drop <= 0.01
