"""A data set of one's own in a file is cut, read, changed and told like any other."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import rlprune.data
from rlprune.cli import main
from rlprune.data import load_data
from rlprune.errors import UserError
from rlprune.files import read_json

SETS = """
import numpy as np, torch
from torch import nn
from torch.utils.data import Dataset

class Squares(Dataset):
    classes = ("low", "high")

    def __init__(self, n=80):
        self.n = n

    def __len__(self):
        return self.n

    def __getitem__(self, index):
        return torch.full((1, 8, 8), (index % 2) - 0.5) + 0.1 * torch.randn(1, 8, 8), index % 2

class Parts(Squares):
    def __init__(self, split):
        super().__init__({"train": 60, "test": 20}[split])

class Which(Squares):
    def __init__(self, root="x", train=True):
        super().__init__(60 if train else 20)

class Listed(Squares):
    def __getitem__(self, index):
        raise RuntimeError("read")
    @property
    def targets(self):
        return [i % 2 for i in range(self.n)]

class Numbers(Squares):
    def __getitem__(self, index):
        return np.full((1, 8, 8), index / 80, np.float32), np.array([index / 80, 1 - index / 80])

class Boxes(Squares):
    classes = ()
    def __getitem__(self, index):
        return torch.zeros(3, 8, 8), {"boxes": torch.tensor([[1.0, 1, 4, 4]]), "labels": torch.tensor([2])}

class Bad(Squares):
    def __init__(self): self.n = 40
class Plain(Bad):
    classes = ()
class Triples(Bad):
    def __getitem__(self, index): return 1, 2, 3
class Bytes(Bad):
    def __getitem__(self, index): return torch.zeros(1, 8, 8, dtype=torch.uint8), 0
class Raises(Bad):
    def __getitem__(self, index): raise KeyError("gone")
class Uneven(Bad):
    def __getitem__(self, index): return torch.zeros(1, 8, 8 + index), 0
class Holes(Bad):
    def __getitem__(self, index): return torch.full((1, 8, 8), float("nan")), 0
class Empty(Bad):
    def __len__(self): return 0
class Needs(Bad):
    def __init__(self, folder): pass
class Negative(Bad):
    def __getitem__(self, index): return torch.zeros(1, 8, 8), -1

by_name = {"train": Squares(60), "valid": Squares(10), "test": Squares(20)}
others = {"left": Squares(60)}
number = 3

def build(num_classes):
    return nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(128, num_classes))
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "sets.py").write_text(SETS)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("name", "sizes"),
    [("Squares", (64, None, 16)), ("Parts", (60, None, 20)), ("Which", (60, None, 20)), ("by_name", (60, 10, 20))],
)
def test_a_class_or_an_object_gives_the_pools(name: str, sizes: tuple[int, int | None, int], folder: Path) -> None:
    data = load_data(f"sets.py:{name}", control_from=None)
    trained = len(data.train) + len(data.calibration) + (len(data.control) if sizes[1] is None else 0)
    assert (trained, sizes[1] and len(data.control), len(data.whole_test)) == sizes
    assert data.classes == ("low", "high") and data.input_shape == (1, 8, 8) and data.task == "classification"
    images, labels = next(data.control.batches(100))
    assert ((images.mean((1, 2, 3)) > 0) == labels.bool()).all()


def test_its_random_changes_are_augmentation_and_nothing_else(folder: Path) -> None:
    state = torch.get_rng_state(), np.random.get_state()[1].tolist()
    one, other = load_data("sets.py:Squares"), load_data("sets.py:Squares")
    assert one.fingerprint == other.fingerprint
    scored = [torch.cat([x for x, _ in data.control.batches(16)]) for data in (one, other, one)]
    assert torch.equal(scored[0], scored[1]) and torch.equal(scored[0], scored[2])
    epochs = [
        torch.cat([x for x, _ in data.train.batches(16, seed=0, epoch=epoch, augment=True)])
        for data, epoch in ((one, 0), (other, 0), (one, 1))
    ]
    assert torch.equal(epochs[0], epochs[1]) and not torch.equal(epochs[0].sort(0)[0], epochs[2].sort(0)[0])
    assert torch.equal(torch.get_rng_state(), state[0]) and np.random.get_state()[1].tolist() == state[1]


def test_targets_are_what_the_task_takes(folder: Path) -> None:
    data = load_data("sets.py:Numbers", task="regression", normalise="0.5:2")
    images, targets = next(data.control.batches(8))
    assert targets.shape[1:] == (2,) and targets.dtype == torch.float32 and len(data.classes) == 2
    assert torch.allclose(images[:, 0, 0, 0], (targets[:, 0] - 0.5) / 2)
    boxed = load_data("sets.py:Boxes")
    images, targets = next(boxed.control.batches(2))
    assert boxed.task == "detection" and len(boxed.classes) == 3 and isinstance(images, list)
    assert targets[0]["labels"].tolist() == [2]


def test_targets_that_it_lists_are_not_read_one_by_one(folder: Path) -> None:
    with pytest.raises(UserError, match="RuntimeError: read"):
        load_data("sets.py:Listed")
    (folder / "sets.py").write_text(SETS.replace('raise RuntimeError("read")', "return torch.zeros(1, 8, 8), 'no'"))
    assert len(load_data("sets.py:Listed").train)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (":Triples", "3 things; it must be a pair"),
        (":Bytes", "floating point, the channels first"),
        (":Raises", "KeyError: 'gone'"),
        (":Holes", "NaN or infinity"),
        (":Empty", "is empty for train"),
        (":Needs", "failed when it was made"),
        (":Negative", "whole numbers from 0 on"),
        (":Numbers", "such as --task regression"),
        (":others", "has the parts left"),
        (":number", "gives a int for train"),
        (":Square", "did you mean 'Squares'"),
        ("", "sets.py is a file; say what of it is the data set: sets.py:Squares or"),
        (":Plain --task segmentation", "a mask of whole numbers"),
        (":Plain --task detection", "dicts with boxes and labels"),
        (":Squares --size 16", "gives its examples as they are"),
    ],
)
def test_what_is_no_data_set_is_one_line(name: str, text: str, folder: Path, complains) -> None:
    complains(f"evaluate --model sets.py:build --weights w.pt --data sets.py{name}", folder, text)


def test_the_ten_lines_of_the_documentation_are_a_data_set(folder: Path) -> None:
    lines = re.search(r"    class Photos.*?\n\n(?=A function)", rlprune.data.__doc__ or "", re.DOTALL)
    assert lines is not None
    code = textwrap.dedent(lines[0])
    assert len([line for line in code.splitlines() if line.strip()]) <= 10
    imports = "import torch\nfrom pathlib import Path\nfrom PIL import Image\n"
    imports += "from torchvision.transforms.functional import to_tensor\n\n"
    (folder / "mydata.py").write_text(imports + code)
    for part, count in (("train", 20), ("test", 8)):
        (folder / "photos" / part).mkdir(parents=True)
        for i in range(count):
            name = f"{('cat', 'dog')[i % 2]}{i}.png"
            Image.fromarray(np.full((8, 8, 3), 255 * (i % 2), np.uint8)).save(folder / "photos" / part / name)
    data = load_data("mydata.py:Photos")
    assert data.classes == ("cat", "dog") and len(data.test) == 8 and data.input_shape == (3, 8, 8)
    images, labels = next(data.test.batches(8))
    assert (images.mean((1, 2, 3)) == labels).all()


def test_examples_of_other_shapes_are_told(folder: Path) -> None:
    with pytest.raises(UserError, match="do not go into one batch"):
        list(load_data("sets.py:Uneven").control.batches(8))
    with pytest.raises(UserError, match="no dicts; a detector needs boxes"):
        list(load_data("sets.py:Squares", task="detection").control.batches(8))


def test_it_goes_through_train_prune_and_replay(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shared = ["--model", "sets.py:build", "--data", "sets.py:Parts", "--quiet"]
    assert main(["train", *shared, "--epochs", "3", "--lr", "0.02", "--out", "base"]) == 0
    quick = ["--method", "uniform", "--rounds", "1", "--epochs", "0", "--tolerance", "1"]
    assert main(["prune", *shared, "--weights", "base/model.pt", *quick, "--out", "runs/one"]) == 0
    assert main(["replay", "runs/one"]) == 0
    record = read_json(Path("runs/one/record.json"))
    assert record["settings"]["problem"]["data"] == "sets.py:Parts"
    assert record["pruned"]["macs"] < record["baseline"]["macs"]
