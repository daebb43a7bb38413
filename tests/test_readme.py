"""What the README shows works as printed."""

import re
from pathlib import Path

import pytest
import torch

from rlprune.cli import main
from rlprune.models import create_model

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
BLOCKS = dict(re.findall(r"^#+ ([^\n]+)$(?:(?!^#).)*?```python\n(.*?)```", README, re.MULTILINE | re.DOTALL))


def test_the_ten_lines_run(capsys):
    code = BLOCKS["Ten lines of Python"]
    assert len([line for line in code.splitlines() if line.strip()]) <= 10
    exec(code, {})
    before, after = re.match(r"(\d+) -> (\d+) torch.Size\(\[1, 10\]\)", capsys.readouterr().out).groups()
    assert int(after) < int(before)


def test_the_loader_gives_the_pruned_network(tmp_path, monkeypatch):
    """The README's loader, word for word, on a run made by the command line."""
    monkeypatch.chdir(tmp_path)
    assert main(["prune", "--controller", "uniform", "--rounds", "1", "--out", "runs/NAME", "--quiet"]) == 0
    scope = {"build": lambda: create_model("lenet5")}
    exec(BLOCKS["What a run leaves behind"], scope)
    saved = torch.load("runs/NAME/model.pt", weights_only=True)["state_dict"]
    assert all(torch.equal(tensor, saved[name]) for name, tensor in scope["model"].state_dict().items())
    assert scope["model"](torch.rand(1, 1, 32, 32)).shape == (1, 10)


def test_every_local_link_and_picture_exists():
    targets = re.findall(r"\]\(([^)#]+)\)", README)
    missing = [target for target in targets if "://" not in target and not (ROOT / target).exists()]
    assert not missing


@pytest.mark.slow
def test_the_environment_block_runs(capsys):
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    (code,) = [block for block in blocks if "gymnasium.make" in block]
    exec(code, {})
    share, drop = map(float, capsys.readouterr().out.split())
    assert share < 1 and drop <= 0.01
