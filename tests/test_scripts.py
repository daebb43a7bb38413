"""The scripts of runs/ that prune inside other people's training loops do what they say, on data made there."""

from __future__ import annotations

import ast
import importlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

RUNS = Path(__file__).resolve().parent.parent / "runs"
BENCHMARKS = Path(__file__).resolve().parent / "benchmarks"
SCRIPTS = {
    "with_timm": ("timm",),
    "with_hf_trainer": ("transformers", "accelerate"),
    "with_lightning": ("lightning",),
    "with_smp": ("segmentation_models_pytorch",),
    "with_ultralytics": ("ultralytics",),
}


def outcome(name: str, folder: Path, *arguments: str) -> tuple[float, float]:
    """Share of the MACs and drop that a script prints."""
    for package in SCRIPTS[name]:
        pytest.importorskip(package)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(RUNS / f"{name}.py"), *arguments]
    run = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    found = re.search(r"([0-9.]+) of the MACs at a drop of (-?[0-9.]+)", run.stdout)
    assert run.returncode == 0 and found, run.stderr[-2000:]
    return float(found[1]), float(found[2])


def test_all_are_short_and_no_package_of_theirs_is_imported_here() -> None:
    found = {path.stem: len(path.read_text().splitlines()) for path in RUNS.glob("with_*.py")}
    assert found.keys() == SCRIPTS.keys() and max(found.values()) <= 60
    sources = [path for part in ("rlprune", "envs", "agents") for path in (RUNS.parent / part).rglob("*.py")]
    assert not [path for path in sources if re.search(r"(import|from) (ultralytics|lightning)\b", path.read_text())]


@pytest.mark.parametrize("path", [*RUNS.glob("*.py"), *BENCHMARKS.glob("*.py")], ids=lambda path: path.stem)
def test_what_scripts_and_benchmarks_import_from_here_exists(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "rlprune":
            module = importlib.import_module(str(node.module))
            assert not {alias.name for alias in node.names if not hasattr(module, alias.name)}, node.module


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in SCRIPTS if name != "with_ultralytics"])
def test_the_tolerance_is_kept_at_half_the_macs(name: str, tmp_path: Path) -> None:
    share, drop = outcome(name, tmp_path, str(tmp_path / "out"))
    assert share <= 0.5 and drop <= 0.02
    assert (tmp_path / "out" / "model.pt").exists()


def drawn_coco(folder: Path, images: int) -> None:
    """A detection set in COCO's files: bright squares on noise, (64, 64) pixels."""
    from PIL import Image

    draw = np.random.default_rng(0)
    for role in ("train", "val"):
        (folder / role).mkdir(parents=True)
        content: dict[str, list] = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "square"}]}
        for i in range(images):
            image = draw.integers(0, 90, (64, 64, 3), np.uint8)
            x, y, side = (int(draw.integers(low, high)) for low, high in ((2, 30), (2, 30), (14, 30)))
            image[y : y + side, x : x + side] = draw.integers(150, 255, 3)
            Image.fromarray(image).save(folder / role / f"{i}.png")
            content["images"].append({"id": i, "file_name": f"{i}.png", "width": 64, "height": 64})
            box = {"bbox": [x, y, side, side], "area": side * side, "iscrowd": 0}
            content["annotations"].append({"id": i + 1, "image_id": i, "category_id": 1, **box})
        (folder / f"{role}.json").write_text(json.dumps(content))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.jit.load` is deprecated:FutureWarning")  # what ultralytics exports by
def test_a_yolo_is_trained_by_its_own_trainer_and_loaded_by_its_own_class(tmp_path: Path) -> None:
    drawn_coco(tmp_path / "squares", 96)
    share, drop = outcome("with_ultralytics", tmp_path, str(tmp_path / "squares"), str(tmp_path / "out"), "64", "12")
    assert share <= 0.6 and drop <= 0.02
    from ultralytics import YOLO

    sizes = [
        sum(p.numel() for p in YOLO(tmp_path / "out" / f"{name}.pt").model.parameters()) for name in ("base", "pruned")
    ]
    assert sizes[1] < 0.8 * sizes[0]
    exported = torch.jit.load(str(tmp_path / "out" / "pruned.torchscript"))
    assert exported(torch.zeros(1, 3, 64, 64)).shape == (1, 4 + 1, 8 * 8 + 4 * 4 + 2 * 2)
