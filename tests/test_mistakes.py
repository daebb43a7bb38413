"""A table of mistakes: each is one line that says what is wrong, exit status 2, without a traceback, in a moment."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from rlprune.models import create_model

FILES = {
    "syntax.py": "def build(:\n",
    "imports.py": "import nonesuch_package\n",
    "raises.py": "def build(**_): raise ValueError('boom')\n",
    "three.py": "def build(**_): return 3\nx = 5\n",
    "two.py": "from torch import nn\nclass A(nn.Module): pass\nclass B(nn.Module): pass\n",
    "exported.py": "import torch\nfrom torch import nn\n"
    "net = torch.export.export(nn.Sequential(nn.Conv2d(1, 8, 3)), (torch.rand(1, 1, 32, 32),)).module()\n",
    "flat.py": "from torch import nn\ndef build(**_): return nn.Sequential(nn.Flatten(), nn.Linear(1024, 10))\n",
    "task.py": "class Bare: pass\nclass Broken:\n    def __init__(self): raise RuntimeError('no luck')\n"
    "class Gives:\n    def loss_of(self, output, targets): return output.mean()\n"
    "    def examples(self, output, targets): return output[:, 0]\n    def measure(self, table): return None\n",
    "bad.yml": "controller: [\n",
    "preset.yml": "- 1\n",
    "agent.zip": "no zip",
    "card.zip": "no zip",
    "card.json": "{}",
    "data.txt": "x",
    "text.npz": "hello",
    "t.csv": "file,label\na.png,1\n",
    "odd.csv": "\x1b[31mfile\x00\n",
    "w.safetensors": "xx",
    "pointer.pt": "version https://git-lfs.github.com/spec/v1\noid sha256:aa\nsize 9\n",
    "parts/model.safetensors.index.json": "{}",
    "alone/images/0.png": "no picture",
    "zero.pt": "",
    "folder/a/notes.txt": "x",
    "pictures/a/0.png": "no picture",
    "pictures/b/0.png": "no picture",
    "bare/record.json": "{}",
    "running/record.json": '{"status": "running", "settings": {}}',
    "damaged/record.json": "{",
    "live/record.json": '{"status": "finished", "settings": {}}',
    "torn/record.json": '{"status": "finished", "settings": {"problem": {"model": "lenet5"}}, '
    '"data": {"input_shape": [1, 32, 32], "classes": ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]}}',
    "other/record.json": '{"status": "finished", "settings": {"problem": {"modle": "x"}}}',
    "compared/comparison.json": '{"x": 1}',
    "scan/sensitivity.json": "{}",
}
ARRAYS = {
    "half": {"test_labels": None},
    "negative": {"train_labels": np.arange(60) - 1},
    "fractions": {"train_labels": np.arange(60) / 2},
    "nan": {"train": np.full((60, 32, 32), np.nan, np.float32)},
    "empty": {"train": np.zeros((0, 32, 32), np.uint8), "train_labels": np.zeros(0, int)},
    "wide": {"train": np.zeros((60, 32, 32), np.int64)},
    "shapes": {"test": np.zeros((40, 30, 30), np.uint8)},
    "far": {"test_labels": np.arange(40) + 50},
    "colour": {name: np.zeros((n, 32, 32, 3), np.uint8) for name, n in (("train", 60), ("test", 40))},
    "plain": {},
}

# The command line -> what its one line says
MISTAKES = {
    "prun": "did you mean 'prune'",
    "prune --tolerence 0.1": "did you mean --tolerance",
    "prune --tolerance": "--tolerance",
    "prune --weight w.pt": "did you mean --weights?",
    "prune --weights w.pt --keep conv1 nothing": "'nothing' matches no channel group",
    "prune --tolerance inf": "finite number >= 0",
    "prune --epochs -1": "epochs is -1.0",
    "prune --epochs nan": "epochs is nan",
    "prune --minutes -3": "minutes is -3.0",
    "prune --target-macs half": "--target-macs is 'half'; it must be a number or none",
    "prune --budget half": "--budget is 'half'; it must be a number or none",
    "episode --agent bare": "bare is a folder; it holds no agent.zip",
    "inspect --model exported.py:net": "exported programs cannot be pruned",
    "prune --epochs=x": "--epochs is 'x'",
    "compare --seeds a b": "--seeds is 'a b'; it must be whole numbers",
    "prune --target-macs 150%": "budget is 1.5",
    "prune --rounds 0": "rounds is 0; it must be at least 1",
    "prune --seed x": "--seed",
    "prune --skip everything": "known: concatenated",
    "prune --method cem --published": "unknown published method 'cem'",
    "prune --method prc --recipe mine.yml": "choose one of them",
    "prune --recipe bad.yml": "bad.yml is not YAML",
    "prune --recipe nofile.yml": "nofile.yml",
    "prune --fpsl.share 0.1": "this run's controller is 'prc'",
    "prune --method fpsl --fpsl.share 2": "share is 2.0",
    "prune --method random --random.episodes 0": "episodes is 0",
    "prune --method msvfp --msvfp.images 0": "images is 0",
    "prune --samples 3": "samples is 3",
    "prune --recovery none+none": "names a step twice",
    "prune --criterion l1:combine=most": "known: first, max, mean, sum",
    "prune --repair.optimizer adamx": "did you mean 'adamw'",
    "prune --batch-size -2": "batch_size is -2",
    "prune --lr 0": "lr is 0.0",
    "prune --amp maybe": "unknown amp 'maybe'",
    "prune --out ''": "--out is empty",
    "prune --control-size 100000": "must lie in [1,",
    "prune --control-from moon": "'train' or 'test'",
    "prune --size 4": "at least 8",
    "prune --channels 2": "1 (grey) or 3 (colour)",
    "prune --data pictures": "cannot read image pictures/a/0.png",
    "prune --data plain.npz --normalise 1:0 --weights w.pt": "above 0",
    "prune --data plain.npz --normalise grey --weights w.pt": "imagenet, none, from-weights, or MEAN:STD",
    "prune --data plain.npz --normalise imagenet --weights w.pt": "give MEAN:STD",
    "prune --data plain.npz": "give --weights FILE",
    "prune --task nonsense": "unknown task 'nonsense'",
    "prune --task regression:metric=r3": "known: mae, mse, r2",
    "prune --task embedding:k=0": "k of embedding is 0",
    "prune --task heatmaps:radius=-1": "radius of heatmaps is -1.0",
    "prune --task heads:0=classification": "two outputs or more",
    "prune --task task.py:Nothing": "known: Bare, Broken",
    "prune --task task.py:Broken": "no luck",
    "evaluate --task task.py:Bare": "needs a method examples(output, targets)",
    "evaluate --task task.py": "task.py is a file; say what of it is the task: task.py:Bare",
    "evaluate --task task.py:Gives": "TypeError",
    "evaluate --task segmentation": "segmentation needs logits",
    "evaluate --task detection": "the data gives no boxes; detection needs",
    "evaluate --task heatmaps": "heatmaps needs (N, k, height, width)",
    "evaluate --device cuda:99": "--device cpu",
    "evaluate --data half.npz": "give both or neither",
    "evaluate --data negative.npz": "labels must be 0 or more",
    "evaluate --data fractions.npz": "such as regression",
    "evaluate --data nan.npz": "NaN or infinity",
    "evaluate --data empty.npz": "at least one image",
    "evaluate --data wide.npz": "must be uint8",
    "evaluate --data shapes.npz": "of one shape",
    "evaluate --data far.npz": "outside the 10 classes",
    "evaluate --data colour.npz --weights w.pt": "'conv1.weight' has shape (20, 1, 5, 5)",
    "evaluate --data text.npz": "is no .npz file",
    "evaluate --data data.txt": "a file of an unknown kind",
    "evaluate --data folder": "no images in a layout known here",
    "evaluate --data torchvision:CIFAR11": "did you mean 'CIFAR10'",
    "evaluate --data t.csv": "has the columns file, label",
    "evaluate --data odd.csv": "has the columns \\x1b[31mfile\\x00",
    "evaluate --weights whole.pt": "a pickled whole model",
    "evaluate --weights twice.pt": "under 'actor.' and 'critic.'",
    "evaluate --weights list.pt": "holds a list",
    "evaluate --weights numbers.pt": "a state dict holds tensors only",
    "evaluate --weights lacks.pt": "'conv2.weight' first",
    "evaluate --weights zero.pt": "cannot read zero.pt",
    "evaluate --weights pointer.pt": "git lfs pull",
    "evaluate --weights parts": "model.safetensors.index.json has no 'weight_map'",
    "evaluate --weights program.pt": "a TorchScript program",
    "evaluate --weights https://example.org/w.pt": "is an address; download it",
    "evaluate --data https://example.org/d.zip": "is an address; download it",
    "evaluate --data mnist": "did you mean 'torchvision:MNIST'",
    "evaluate --data alone": "'images', and so one class",
    "evaluate --model yolov8n.pt": "is a file of weights: give it by --weights",
    "evaluate --model resnet50": "did you mean 'torchvision:resnet50'",
    "evaluate --weights folder": "folder is a folder",
    "evaluate --weights w.safetensors": "cannot read w.safetensors",
    "evaluate --model resnet21": "known: lenet5",
    "evaluate --model two.py": "two.py:A or two.py:B",
    "evaluate --model syntax.py:build": "SyntaxError",
    "evaluate --model imports.py:build": "nonesuch_package",
    "evaluate --model raises.py:build": "boom",
    "evaluate --model three.py:build": "returned a int",
    "evaluate --model three.py:x": "known: build",
    "evaluate --model torchvision:resnet19": "the closest of",
    "evaluate --model hf:folder": "folder/config.json",
    "evaluate --model unet:width=0": "width of unet is 0",
    "evaluate --model no.such.module:build": "no.such.module",
    "prune --model flat.py:build --weights flat.pt --data plain.npz": "can be pruned",
    "train --optimizer rmsprop": "known: adamw, sgd",
    "train --schedule wavy": "known: constant",
    "train --resume": "name it with --out",
    "train --teacher nofile.pt": "--distillation",
    "evaluate bare": "it has no 'status'",
    "evaluate running": "rlprune prune --out running --resume",
    "evaluate nowhere": "no run in nowhere",
    "evaluate other": "did you mean 'model'",
    "replay damaged": "cannot read damaged/record.json as JSON",
    "replay live": "load live/model.pt into it",
    "export torn --format pt2": "its content is another",
    "export live --format pt2": "load live/model.pt into it",
    "export live": "--format",
    "export live --format pt2 --out folder": "folder, a folder; give a file in it",
    "report live --out folder": "folder, a folder; give a file in it",
    "report folder": "nothing to report in folder",
    "report compared": "has no 'settings'",
    "report live": "has no 'rounds'",
    "report scan": "sensitivity.png",
    "pareto nowhere": "no such folder: nowhere",
    "pareto folder --by beauty": "unknown objective 'beauty'",
    "pareto folder --export x": "known: (none)",
    "inspect --keep nothing.*": "matches no channel group",
    "sensitivity --rates 2": "--rates is 2.0",
    "sensitivity --groups nothing*": "see rlprune inspect",
    "sensitivity --limit 0": "--limit is 0",
    "compare --out bare": "a run of another kind (record.json)",
    "train-agent --out bare --resume": "a run of another kind (record.json)",
    "prune --out compared --resume": "a run of another kind (comparison.json)",
    "compare --methods prcc": "did you mean 'prc'",
    "compare --seeds 0 0": "'0' twice",
    "compare --workers 0": "--workers is 0",
    "compare --budgets 2": "(0, 1]",
    "compare --models nowhere.py:x=w.pt": "no such file: nowhere.py",
    "compare --models lenet5=nofile.pt": "no such file: nofile.pt",
    "compare --data nowhere.npz": "no such file: nowhere.npz",
    "train-population --families plane": "did you mean 'plain'",
    "train-population --networks 0": "networks is 0",
    "train-population --workers 0": "--workers is 0",
    "train-population --data nowhere.npz": "no such file",
    "evaluate --model drawn:plain": "has no seed",
    "evaluate --model drawn:plain-x": "has no seed",
    "train-agent --models population:nowhere": "no population in nowhere",
    "compare --models population:nowhere": "no population in nowhere",
    "train-agent --algorithm ppoo": "did you mean 'ppo'",
    "train-agent --budgets 0.3:x": "A:B or A:B:STEPS",
    "train-agent --set n_steps": "NAME=VALUE",
    "train-agent --set nstep=3": "'nstep'",
    "train-agent --preset preset.yml": "no entries by environment",
    "train-agent --preset none.yml": "none.yml",
    "train-agent --reward nothing": "known: accuracy",
    "train-agent --episodes 2": "at least 17 episodes",
    "episode --agent agent.zip": "has no card agent.json",
    "episode --agent card.zip": "is not the card of an agent",
    "episode --agent nofile.zip": "no such file: nofile.zip",
    "episode --agent ppo-resnett": "did you mean 'ppo-resnet'",
    "episode --agent agent.zip --env-kwargs {x": "must be JSON",
    "episode --agent agent.zip --env-kwargs '{\"budgt\": 1}'": "did you mean 'budget'",
    "episode --agent agent.zip --env-kwargs {}": "not what Stable-Baselines3 saves",
    "episode --agent card.zip --env-kwargs {}": "leave --env-kwargs out",
    "episode --controller uniform --agent agent.zip": "choose one of them",
    "episode --controller uniform --samples 3": "the same",
    "methods prcc": "did you mean 'prc'",
}  # fmt: skip


def files_in(root: Path) -> dict[Path, bytes]:
    """What is in a folder, but for what Python compiled."""
    return {path: path.read_bytes() for path in root.rglob("*") if path.is_file() and path.suffix != ".pyc"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder of files that are wrong in one way each; they must still be as they were afterwards."""
    root = tmp_path_factory.mktemp("mistakes")
    for name, text in FILES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    right = {f"{name}{labels}": np.arange(n) % 10 if labels else np.zeros((n, 32, 32), np.uint8)
             for name, n in (("train", 60), ("test", 40)) for labels in ("", "_labels")}  # fmt: skip
    for name, changes in ARRAYS.items():
        np.savez(root / name, **{key: value for key, value in {**right, **changes}.items() if value is not None})
    model = create_model("lenet5")
    state = dict(model.state_dict())
    torch.save(state, root / "w.pt")
    torch.save({name: tensor for name, tensor in state.items() if name != "conv2.weight"}, root / "lacks.pt")
    torch.save(model, root / "whole.pt")
    torch.save([1, 2], root / "list.pt")
    torch.save(model, root / "torn" / "model.pt")
    torch.save(
        {prefix + name: value for name, value in state.items() for prefix in ("actor.", "critic.")}, root / "twice.pt"
    )
    with zipfile.ZipFile(root / "program.pt", "w") as archive:
        archive.writestr("program/constants.pkl", b"")
    torch.save({"a": 1}, root / "numbers.pt")
    torch.save(nn.Sequential(nn.Flatten(), nn.Linear(1024, 10)).state_dict(), root / "flat.pt")
    before = files_in(root)
    yield root
    assert files_in(root) == before


@pytest.mark.parametrize("line", MISTAKES)
def test_a_mistake_is_one_line(line: str, folder: Path, complains: Callable[[str, Path, str], None]) -> None:
    complains(line, folder, MISTAKES[line])
