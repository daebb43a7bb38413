"""A second table of mistakes: values that are empty, at the edge, twice, or of an odd kind, over every command."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from rlprune.models import create_model

FILES = {
    "afile": "x",
    "blank.csv": "path,label\n",
    "gone.csv": "path,label\nnope.png,0\n",
    "odd/dataset.yml": "normalize: none\n",
    "text/dataset.yml": "size: big\n",
    "list/dataset.yml": "- 1\n",
    "wavs/a/0.wav": "RIFF",
    "wavs/b/0.wav": "RIFF",
    "masks/images/0.png": "x",
    "masks/masks/1.png": "x",
    "coco/train.json": "{}",
    "coco/val.json": "[]",
    "coco/train/0.png": "x",
    "needs.py": "def build(width): return width\n",
    "named.py": "from torch import nn\n"
    "class Net(nn.Module):\n"
    "    def __init__(self):\n"
    "        super().__init__()\n"
    "        self.conv = nn.Conv2d(1, 8, 3)\n"
    "    def forward(self, *, pixel_values):\n"
    "        return self.conv(pixel_values)\n"
    "class Silent(Net):\n"
    "    def forward(self, x): self.conv(x)\n",
    "tasks.py": "class Words:\n"
    "    def loss_of(self, output, targets): return output.mean()\n"
    "    def examples(self, output, targets): return 'x'\n"
    "class Raises(Words):\n"
    "    def examples(self, output, targets): raise KeyError('k')\n"
    "class Nan(Words):\n"
    "    def examples(self, output, targets): return output[:, 0] * float('nan')\n"
    "class Three(Words):\n"
    "    def loss_of(self, output, targets): return 3\n"
    "    def examples(self, output, targets): return output[:, 0]\n",
    "pair.py": "import torch\n"
    "from torch import nn\n"
    "class Two(nn.Module):\n"
    "    def __init__(self):\n"
    "        super().__init__()\n"
    "        self.body, self.head = nn.Conv2d(1, 8, 3), nn.Conv2d(8, 4, 3)\n"
    "    def forward(self, x):\n"
    "        features = self.head(self.body(x)).mean((2, 3))\n"
    "        return features, features[:, 0]\n"
    "class Pairs:\n"
    "    def __len__(self): return 60\n"
    "    def __getitem__(self, i): return torch.zeros(1, 8, 8), (i % 4, i / 60)\n"
    "class Raises:\n"
    "    def loss_of(self, output, targets): raise KeyError('k')\n"
    "    def examples(self, output, targets): return output - targets\n"
    "class Three(Raises):\n"
    "    def loss_of(self, output, targets): return 3\n"
    "class Counts(Raises):\n"
    "    def loss_of(self, output, targets): return output.mean()\n"
    "    def examples(self, output, targets): raise KeyError('c')\n",
    "recipe.yml": "controler: prc\n",
    "rounds.yml": "controller: prc\nrounds: many\n",
    "empty.yml": "",
    "phase.yml": "controller: prc\npress: 3\n",
    "listed/record.json": "[]",
    "table/record.json": '{"status": "finished", "settings": 3}',
    "short/record.json": '{"status": "finished", "settings": {"problem": {"model": "lenet5"}}}',
    "people/population.json": "[1]",
}

# The command line -> what its one line says
MISTAKES = {
    "prune --keep ''": "--keep is empty; give a value",
    "prune --skip": "--skip is empty; give at least one, or none",
    "prune --method ''": "--method is empty",
    "prune --data ''": "--data is empty",
    "prune --weights=": "--weights is empty",
    "prune --minutes 0": "minutes is 0.0; it must be a finite number > 0",
    "prune --finish.milestones 2": "give --schedule step",
    "prune --prc.alpha 0": "alpha is 0.0; it must lie in (0, 1]",
    "prune --prc.step 0": "step is 0.0; it must be a finite number > 0",
    "prune --prc.healing 0": "healing is 0.0",
    "prune --prc.delta 0": "delta is 0.0",
    "prune --prc.patience 0": "patience is 0; it must be at least 1",
    "prune --prc.rates sideways": "known: best, error, response, threshold, uniform",
    "prune --device meta": "known: cpu, cuda, mps, xpu",
    "prune --confidence 2": "it must lie in [0, 1)",
    "prune --max-rate 0": "the widest has 500 filters: raise max_rate",
    "prune --skip residual --max-rate 0": "raise max_rate or skip less",
    "prune --round-to 1000": "lower round_to",
    "prune --round-to 8.5": "it must be a whole number",
    "prune --seed 99999999999999999999999": "it must be a whole number from 0 on",
    "prune --criterion l1:combine": "like 'mean'",
    "prune --recovery lsq:ridge=1": "unknown recovery step 'lsq:ridge=1'",
    "prune --controller agent:": "known: FILE.zip, ppo-general, ppo-resnet",
    "prune --recipe recipe.yml": "did you mean 'controller'",
    "prune --recipe rounds.yml": "rounds is 'many'; it must be a whole number or null",
    "prune --recipe empty.yml": "a table of options by name",
    "prune --recipe phase.yml": "press is 3; it must be a table",
    "prune --repair.momentum 1": "it must lie in [0, 1)",
    "prune --finish.temperature 0": "it must be a finite number > 0",
    "prune --model needs.py:build --weights w.pt": "missing 1 required positional argument: 'width'",
    "prune --data /": "give the folder of the data alone",
    "prune --data blank.csv": "lists no file",
    "prune --data gone.csv": "names 'nope.png'",
    "prune --data odd": "did you mean 'normalise'",
    "prune --data text": "size is 'big'; it must be a whole number",
    "prune --data list": "unknown entry of list/dataset.yml",
    "prune --data wavs": "cannot read wavs/a/0.wav",
    "prune --data masks": "expected masks/masks/0.png",
    "prune --data coco": "has no list 'images'",
    "prune --data words.npz": "expected 60 whole numbers",
    "prune --data complex.npz": "'train' is complex64",
    "prune --size 64": "leave it out",
    "prune --weights int.pt": "'conv1.weight' is torch.int8, for torch.float32",
    "prune --weights complex.pt": "is torch.complex64",
    "prune --weights quantized.pt": "is quantized",
    "prune --weights sparse.pt": "is sparse",
    "prune --weights meta.pt": "is without values",
    "prune --weights tensor.pt": "holds a Tensor",
    "prune --weights extra.pt": "'extra.weight' first",
    "prune --task tasks.py:Words": "the task Words, scoring a network, failed",
    "prune --task tasks.py:Raises": "KeyError: 'k'",
    "prune --task tasks.py:Nan": "a score of nan",
    "prune --task tasks.py:Three": "loss_of of the task own gave 3",
    "train --model pair.py:Two --data pair.py:Pairs --task 'heads:0=classification;1=pair.py:Counts'": "KeyError: 'c'",
    "train --model pair.py:Two --data pair.py:Pairs --task 'heads:0=classification;1=pair.py:Raises'": "KeyError: 'k'",
    "train --model pair.py:Two --data pair.py:Pairs --task 'heads:0=classification;1=pair.py:Three'": "gave 3",
    "compare --models lenet5 resnet20": "no weights come with the model 'resnet20'",
    "compare --task regression": "regression needs one number for every target",
    "sensitivity --task regression": "regression needs one number for every target",
    "train-population --task regression": "regression needs one number for every target",
    "prune --out /": "give a folder of its own",
    "prune --out afile": "cannot write afile",
    "evaluate table": "settings is 3; it must be a table",
    "evaluate short": "has no 'plan'",
    "train --model named.py:Net --epochs 1": "cannot take the 1x32x32 images",
    "episode --agent": "--agent is empty; give a value",
    "train --task detection --epochs 1": "the data gives no boxes; detection needs",
    "train --model named.py:Silent --epochs 1": "the model returned a NoneType",
    "train --warmup-epochs 5 --epochs 1": "so that the learning rate is never reached",
    "compare --models =w.pt": "each must be NAME, NAME=WEIGHTS or population:FOLDER",
    "compare --models lenet5=": "--models has 'lenet5='",
    "compare --budgets": "--budgets is empty",
    "compare --retry-failed": "name its folder with --out",
    "episode --env-kwargs '[]'": "leave --env-kwargs out",
    "train-agent --set n_steps=x": "n_steps is 'x'; it must be a whole number",
    "train-agent --set gamma=2": "it must lie in [0, 1]",
    "train-agent --start-method telepathy": "known: fork, forkserver, spawn",
    "train-agent --agent-device abacus": "unknown device 'abacus'",
    "train-agent --cache coco": "give another file for --cache",
    "train-population --families": "--families is empty",
    "train-population --epochs 0": "it must be above 0",
    "train-population --out people --resume": "is not a population",
    "sensitivity --rates 0.5 0.5": "--rates has 0.5 twice",
    "sensitivity --groups": "--groups is empty",
    "inspect --json x": "unknown option x",
    "replay": "RUN is missing; it must be a run folder",
    "replay listed": "it has no 'status'",
    "export short": "--format is missing; it must be pt2 or onnx",
    "export short --format pt2": "has no 'data'",
    "report table": "has no 'rounds'",
    "pareto coco": "no finished run or comparison in coco",
    "pareto coco --out x": "give --export ID",
    "methods --yaml": "name it, as in",
    "agents afile": "has no card afile.json",
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder of files that are odd in one way each."""
    root = tmp_path_factory.mktemp("odd")
    for name, text in FILES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    right = {"train": np.zeros((60, 32, 32), np.uint8), "train_labels": np.arange(60) % 10,
             "test": np.zeros((40, 32, 32), np.uint8), "test_labels": np.arange(40) % 10}  # fmt: skip
    np.savez(root / "words.npz", **{**right, "train_labels": np.array(["a"] * 60)})
    np.savez(root / "complex.npz", **{**right, "train": np.zeros((60, 32, 32), np.complex64)})
    state = create_model("lenet5").state_dict()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # such tensors are deprecated, and files of them are about
        kinds = {
            "int": {name: tensor.to(torch.int8) for name, tensor in state.items()},
            "complex": {name: tensor.to(torch.complex64) for name, tensor in state.items()},
            "quantized": {n: torch.quantize_per_tensor(t, 0.1, 0, torch.qint8) for n, t in state.items()},
            "sparse": {name: tensor.to_sparse() for name, tensor in state.items()},
            "meta": {name: tensor.to("meta") for name, tensor in state.items()},
            "tensor": torch.zeros(3),
            "extra": {**state, "extra.weight": torch.zeros(3)},
            "w": dict(state),
        }
        for name, content in kinds.items():
            torch.save(content, root / f"{name}.pt")
    yield root


@pytest.mark.parametrize("line", MISTAKES)
def test_an_odd_value_is_one_line(line: str, folder: Path, complains: Callable[[str, Path, str], None]) -> None:
    complains(line, folder, MISTAKES[line])
    assert not list(folder.glob("runs/*"))
