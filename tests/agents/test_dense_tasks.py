"""Segmentation and detection go through the same commands as classification: train, prune, replay, report, compare."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from rlprune.agents import replay
from rlprune.agents.runs.recipes import published_recipes
from rlprune.cli import main
from rlprune.criteria import list_criteria, plan_from_counts
from rlprune.record import RunFolder
from rlprune.recovery import list_recoveries, make_recovery
from rlprune.scoring.sensitivity import scan
from rlprune.spec import ProblemSpec
from rlprune.training.settings import TrainSettings

NETWORKS = """
from torch import nn


class Segmenter(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.conv2, self.bn2 = nn.Conv2d(8, 12, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(12)
        self.up, self.head = nn.ConvTranspose2d(12, 8, 2, stride=2), nn.Conv2d(8, classes, 1)

    def forward(self, x):
        x = self.bn1(self.conv1(x)).relu()
        x = self.bn2(self.conv2(x)).relu()
        return self.head(self.up(x).relu())


class Backbone(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(8)
        self.conv2, self.bn2 = nn.Conv2d(8, 12, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(12)
        self.conv3, self.bn3 = nn.Conv2d(12, 12, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(12)
        self.out_channels = [12, 12]

    def forward(self, x):
        x = self.bn1(self.conv1(x)).relu()
        fine = self.bn2(self.conv2(x)).relu()
        return {"fine": fine, "coarse": self.bn3(self.conv3(fine)).relu()}


def segmenter(num_classes):
    return Segmenter(num_classes)


def detector(num_classes):
    from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
    from torchvision.models.detection.ssd import SSD

    return SSD(Backbone(), DefaultBoxGenerator([[2], [2]], scales=[0.2, 0.5, 0.9]), (32, 32), num_classes)
"""

COUNTS = {"train": 28, "val": 3, "test": 4}


def squares(generator: np.random.Generator) -> tuple[np.ndarray, list[tuple[int, int, int]]]:
    """An image of noise with one or two bright squares, and where they are: (left, top, side)."""
    image = generator.integers(0, 80, (32, 32, 3), dtype=np.uint8)
    places = []
    for _ in range(int(generator.integers(1, 3))):
        side = int(generator.integers(8, 16))
        left, top = (int(generator.integers(0, 32 - side)) for _ in range(2))
        image[top : top + side, left : left + side, 0] += 150
        places = [(left, top, side)]
    return image, places


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with both kinds of data and the networks."""
    root = tmp_path_factory.mktemp("dense")
    (root / "networks.py").write_text(NETWORKS)
    generator = np.random.default_rng(0)
    for pool, count in COUNTS.items():
        for folder in (root / "masked" / pool / "images", root / "masked" / pool / "masks", root / "boxed" / pool):
            folder.mkdir(parents=True)
        boxes: list[dict[str, Any]] = []
        for number in range(count):
            image, places = squares(generator)
            mask = np.zeros((32, 32), dtype=np.uint8)
            for left, top, side in places:
                mask[top : top + side, left : left + side] = 1
                boxes.append({"id": len(boxes), "image_id": number, "category_id": 1, "bbox": [left, top, side, side]})
            Image.fromarray(image).save(root / "masked" / pool / "images" / f"{number:02}.png")
            Image.fromarray(mask).save(root / "masked" / pool / "masks" / f"{number:02}.png")
            Image.fromarray(image).save(root / "boxed" / pool / f"{number:02}.png")
        images = [{"id": i, "file_name": f"{i:02}.png", "height": 32, "width": 32} for i in range(count)]
        content = {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "square"}]}
        (root / "boxed" / f"{pool}.json").write_text(json.dumps(content))
    return root


TASKS = {
    "segmentation": ("segmenter", "masked", []),
    "detection": ("detector", "boxed", ["--task", "detection:metric=map50"]),
}


@pytest.fixture(scope="module", params=TASKS)
def trained(request: pytest.FixtureRequest, place: Path) -> list[str]:
    """Options that name a trained network, its data and its task."""
    network, data, more = TASKS[request.param]
    what = ["--model", f"{place / 'networks.py'}:{network}", "--data", str(place / data), *more]
    out = place / f"base-{network}"
    learn = ["--epochs", "4", "--batch-size", "4", "--optimizer", "adamw", "--lr", "0.005"]
    aside = ["--control-from", "train", "--control-size", "8"]
    assert main(["train", *what, *learn, *aside, "--out", str(out), "--quiet"]) == 0
    return [*what, "--weights", str(out / "model.pt")]


def spec_of(trained: list[str], **changes: Any) -> ProblemSpec:
    options = {name.removeprefix("--"): value for name, value in zip(trained[::2], trained[1::2], strict=True)}
    return ProblemSpec(**{**options, **changes})


def test_pruning_keeps_the_images_for_control_that_training_kept_aside(trained: list[str], capsys: Any) -> None:
    data = spec_of(trained).build().data
    assert data.roles["control"]["source"] == "train" and len(data.control) == 8
    used = {role: {*data.split(role).positions.tolist()} for role in ("train", "calibration", "control")}
    assert not used["control"] & (used["train"] | used["calibration"]) and not used["train"] & used["calibration"]
    assert sum(map(len, used.values())) == COUNTS["train"]
    # another seed's cut would hold images that were trained on: val is taken, which never was
    other = spec_of(trained, seed=1).build().data
    assert other.roles["control"]["source"] == "val" and len(other.control) == COUNTS["val"]
    assert main(["evaluate", *trained, "--seed", "1", "--control-from", "train"]) == 2
    assert "another cut" in capsys.readouterr().err


QUICK = {
    "fpsl": ["--fpsl.share", "0.2", "--repair.epochs", "0.5", "--epochs", "2"],
    "msvfp": ["--msvfp.images", "8", "--msvfp.step", "0.3", "--msvfp.retrain-every", "1"],
    "importance-weights": ["--importance-weights.share", "0.2", "--importance-weights.epsilon", "9"],
    "slimming": ["--press.epochs", "1"],
    "eagleeye": ["--random.episodes", "3"],
    "amc-rules": ["--controller", "random", "--random.episodes", "3"],
    "prc": ["--prc.alpha", "0.3", "--press.epochs", "0.5", "--repair.epochs", "1", "--rounds", "2"],
}


@pytest.mark.parametrize("method", sorted(published_recipes()))
def test_every_method(method: str, trained: list[str], tmp_path: Path) -> None:
    out = tmp_path / "run"
    argv = ["prune", "--method", method, "--published", *trained, "--out", str(out), "--quiet", "--target-macs", "0.8"]
    training = ["--batch-size", "4", "--finish.epochs", "1", "--finish.lr", "0.001"]
    # most of this tiny network's score goes with the first filters: what counts here is that everything runs
    assert main([*argv, "--tolerance", "0.95", "--skip", "none", *training, *QUICK.get(method, [])]) == 0
    record = RunFolder(out).read()
    assert record["pruned"]["macs"] < record["baseline"]["macs"] and record["drop"] <= 0.95
    assert record["pruned"]["metric"] in ("miou", "map50") and record["pruned"]["control_size"] == 8
    assert replay(out)["checks"]


def test_every_criterion_and_recovery(trained: list[str]) -> None:
    problem = spec_of(trained).build()
    base = problem.base()
    for name in list_criteria():
        scores = problem.scores(name, base)
        assert scores and all(np.isfinite(values).all() and len(values) for values in scores.values()), name
    plan = plan_from_counts(base.groups, problem.scores("l1", base), {group.name: 2 for group in base.groups.prunable})
    settings = TrainSettings(epochs=1, batch_size=4, lr=0.001)
    for name in list_recoveries():
        pruned = base.remove(plan, problem.groups)
        before = problem.task.loss(pruned.model, problem.calibration_batches()[0])
        make_recovery(name, settings).apply(base, pruned, plan, problem, seed=0)
        after = problem.task.loss(pruned.model, problem.calibration_batches()[0])
        assert torch.isfinite(after) and (name == "none") == bool(after == before), name
        assert 0 <= problem.evaluator.score(pruned.model).value <= 1


def test_the_scan_scores_what_removal_scores(trained: list[str]) -> None:
    problem = spec_of(trained).build()
    group = problem.groups.prunable[-1]
    found = scan(problem, rates=(0.5,), recovery="none", groups=[group.name])
    count = found.removed[group.name][0]
    plan = plan_from_counts(problem.groups, problem.scores("l1", problem.base()), {group.name: count})
    pruned = problem.base().remove(plan, problem.groups)
    assert count and found.scores[group.name] == [problem.evaluator.score(pruned.model).value]


def test_the_scan_from_the_command_line(trained: list[str], tmp_path: Path) -> None:
    out = tmp_path / "scan"
    assert main(["sensitivity", *trained, "--rates", "0.5", "--recovery", "lsq", "--out", str(out), "--quiet"]) == 0
    found = json.loads((out / "sensitivity.json").read_text())
    assert list(found["scores"]) == [group.name for group in spec_of(trained).build().groups.prunable]
    assert all(0 <= score <= 1 for (score,) in found["scores"].values())
    assert (out / "sensitivity.png").exists()


def test_a_tolerance_may_be_on_the_loss(place: Path, trained: list[str], tmp_path: Path) -> None:
    """The score is then exp(-loss), so a tolerance of 1 - exp(-x) at a loss near 0 lets it grow by x."""
    if "--task" in trained:
        argv = ["evaluate", *trained[: trained.index("--task")], *trained[trained.index("--weights") :]]
        assert main([*argv, "--task", "detection:metric=loss"]) == 2, "detectors give no loss in eval mode"
        return
    out = tmp_path / "run"
    argv = ["prune", *trained, "--task", "segmentation:metric=loss", "--out", str(out), "--quiet", "--rounds", "1"]
    assert main([*argv, "--tolerance", "0.3", "--epochs", "0"]) == 0
    record = RunFolder(out).read()
    problem = spec_of(trained, task="segmentation:metric=loss").build()
    assert record["baseline"]["control_score"] == pytest.approx(math.exp(-problem.baseline.loss))
    assert record["baseline"]["metric"] == "loss" and 0 < record["drop"] <= 0.3


def test_an_episode_and_a_comparison(trained: list[str], tmp_path: Path) -> None:
    out = tmp_path / "episode"
    assert main(["episode", "--controller", "uniform", *trained, "--budget", "0.7", "--out", str(out), "--quiet"]) == 0
    assert main(["report", str(out), "--figures", "none"]) == 0
    assert "data:image/png" in (out / "report.html").read_text()
    what = dict(zip(trained[::2], trained[1::2], strict=True))
    argv = [
        "--models",
        f"{what['--model']}={what['--weights']}",
        "--data",
        what["--data"],
        "--out",
        str(tmp_path / "all"),
    ]
    argv += ["--controllers", "uniform,prc", "--budgets", "0.7", "--epochs", "2", "--seeds", "0", "--quiet"]
    assert main(["compare", *argv]) == 0
    cells = json.loads((tmp_path / "all" / "comparison.json").read_text())["cells"]
    assert [cell["status"] for cell in cells] == ["finished", "finished"]
