"""Embeddings and key points: scores by their definitions, and networks of both pruned by the engine."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

import rlprune
from rlprune.data import load_data
from rlprune.errors import UserError
from rlprune.tasks import Score, get_task


class Gives(nn.Module):
    """Returns its inputs."""

    def forward(self, x: Any) -> Any:
        return x


def score(task: str, outputs: Any, targets: Any) -> Score:
    return get_task(task).score(Gives(), [(outputs, targets)])


# --- embedding ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [1, 3])
def test_recall_is_that_of_a_search_of_all_pairs(k: int) -> None:
    generator = torch.Generator().manual_seed(0)
    vectors, labels = torch.randn(60, 4, generator=generator), torch.arange(60) % 7
    labels[0] = 99  # alone in its class: others may find it, nobody searches for its like
    hits = []
    for place in range(1, 60):
        likeness = F.cosine_similarity(vectors[place], vectors)
        likeness[place] = -2
        hits.append(bool((labels[likeness.topk(k).indices] == labels[place]).any()))
    found = score(f"embedding:k={k}", vectors, labels)
    assert found.value == pytest.approx(np.mean(hits)) and found.n == 59 and found.metric == f"recall@{k}"
    low, high = found.interval() or (0, 0)
    assert low < found.value < high
    one_by_one = get_task(f"embedding:k={k}").score(Gives(), list(zip(vectors.split(7), labels.split(7), strict=True)))
    assert one_by_one.value == found.value, "whatever the batches"


def test_the_loss_is_khoslas_by_hand() -> None:
    vectors, labels = torch.randn(6, 3, generator=torch.Generator().manual_seed(1)), torch.tensor([0, 0, 0, 1, 1, 2])
    unit, losses = F.normalize(vectors), []
    for i in range(5):
        others = [j for j in range(6) if j != i]
        total = torch.logsumexp(torch.stack([unit[i] @ unit[j] / 0.1 for j in others]), 0)
        company = [j for j in others if labels[j] == labels[i]]
        losses.append(-sum(unit[i] @ unit[j] / 0.1 - total for j in company) / len(company))
    assert float(get_task("embedding").loss(Gives(), (vectors, labels))) == pytest.approx(float(sum(losses)) / 5)


def test_an_embedding_that_cannot_be_scored_says_why() -> None:
    assert score("embedding", torch.randn(3, 2), torch.arange(3)).value == 0.0, "no two are of one class"
    with pytest.raises(UserError, match="a vector and a class"):
        score("embedding", torch.randn(3, 2, 4), torch.arange(3))


def test_an_embedding_of_digits_is_pruned_inside_its_tolerance() -> None:
    torch.manual_seed(0)
    layers = (nn.Conv2d(1, 12, 3, stride=2), nn.BatchNorm2d(12), nn.ReLU(), nn.Conv2d(12, 24, 3, stride=2))
    model = nn.Sequential(*layers, nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(96, 8))
    data, task = load_data("digits"), get_task("embedding")
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for batch in data.train.batches(128, seed=0, epoch=0):
        optimizer.zero_grad()
        task.loss(model, batch).backward()
        optimizer.step()
    roles = {role: list(data.split(role).batches(128)) for role in ("train", "control", "test")}
    result = rlprune.prune(model, **roles, task="embedding", tolerance=0.05, epochs=1, progress=False)
    assert result.drop <= 0.05 and result.macs < result.record["baseline"]["macs"]
    assert result.record["baseline"]["metric"] == "recall@1"


# --- heat maps ------------------------------------------------------------------------------------------------------


def test_a_point_is_found_where_the_map_is_brightest() -> None:
    maps = torch.zeros(1, 2, 10, 20)
    maps[0, 0, 3, 7] = maps[0, 1, 9, 19] = 1.0
    right = torch.tensor([[[7.5 / 20, 3.5 / 10, 1.0], [0.0, 0.0, 1.0]]])
    assert score("heatmaps", maps, right).value == 0.5
    hidden = right.clone()
    hidden[0, 1, 2] = 0
    assert score("heatmaps", maps, hidden).value == 1.0
    near = right + torch.tensor([1.9 / 20, 0.0, 0.0])  # 0.095 of the longer side away
    assert score("heatmaps", maps, near).value == 0.5
    assert score("heatmaps:radius=0.05", maps, near).value == 0.0
    assert score("heatmaps", maps, right[..., :2].flatten(1)).value == 0.5, "flat, as in the columns of a table"


def test_maps_are_trained_towards_their_points() -> None:
    maps = torch.zeros(1, 1, 8, 8, requires_grad=True)
    task, target = get_task("heatmaps"), torch.tensor([[[2.5 / 8, 5.5 / 8]]])
    optimizer = torch.optim.SGD([maps], 10.0)
    for _ in range(20):
        optimizer.zero_grad()
        task.loss(Gives(), (maps, target)).backward()
        optimizer.step()
    assert int(maps.detach().flatten().argmax()) == 5 * 8 + 2 and score("heatmaps", maps.detach(), target).value == 1.0
    with pytest.raises(UserError, match="heatmaps needs"):
        task.loss(Gives(), (maps, torch.zeros(1, 5)))


def test_a_network_of_heat_maps_is_pruned_inside_its_tolerance() -> None:
    """The brightest place of an image, found by a small network."""
    generator = torch.Generator().manual_seed(0)
    places = torch.randint(1, 15, (400, 2), generator=generator)
    images = 0.1 * torch.rand(400, 1, 16, 16, generator=generator)
    images[torch.arange(400), 0, places[:, 1], places[:, 0]] = 1.0
    batches = [(images[i : i + 50], (places[i : i + 50] + 0.5)[:, None] / 16) for i in range(0, 400, 50)]
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(),
                          nn.Conv2d(16, 1, 3, padding=1))  # fmt: skip
    task, optimizer = get_task("heatmaps"), torch.optim.Adam(model.parameters(), 1e-2)
    for batch in batches[:5] * 6:
        optimizer.zero_grad()
        task.loss(model, batch).backward()
        optimizer.step()
    result = rlprune.prune(model, train=batches[:5], control=batches[5:7], test=batches[7:], task="heatmaps",
                           tolerance=0.05, epochs=2, progress=False)  # fmt: skip
    assert result.baseline > 0.9 and result.drop <= 0.05 and result.macs < 0.8 * result.record["baseline"]["macs"]


# --- key points of objects ------------------------------------------------------------------------------------------


def objects(*points: tuple[float, float], score: float | None = None) -> dict[str, torch.Tensor]:
    """One object in a box of 20 by 20 pixels, with these points."""
    table = torch.tensor([[[x, y, 1.0] for x, y in points]])
    found = {"boxes": torch.tensor([[10.0, 10.0, 30.0, 30.0]]), "labels": torch.tensor([1]), "keypoints": table}
    return found if score is None else {**found, "scores": torch.tensor([score])}


def oks(found: Any, truth: Any, metric: str = "map") -> float:
    pytest.importorskip("pycocotools")
    task = get_task(f"keypoints:metric={metric}")
    return task.score(Gives(), [([found], [truth])]).value  # type: ignore[arg-type]


def test_precision_goes_by_the_similarity_of_the_points() -> None:
    truth = objects((12.0, 12.0), (28.0, 28.0))
    assert oks(objects((12.0, 12.0), (28.0, 28.0), score=0.9), truth) == pytest.approx(1.0)
    assert oks(objects((28.0, 12.0), (12.0, 28.0), score=0.9), truth) == 0.0, "the box alone is not enough"
    # exp(-d² / (2 area (2 sigma)²)), area 400: at d = 1 in both points 0.88; above the bounds 0.50 ... 0.85: 8 of 10
    assert oks(objects((13.0, 12.0), (28.0, 27.0), score=0.9), truth) == pytest.approx(0.8)


POINTS = """
from torch import nn
from torchvision.models.detection import KeypointRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.ops import MultiScaleRoIAlign


class Backbone(nn.Sequential):
    out_channels = 12

    def __init__(self):
        super().__init__(
            nn.Conv2d(3, 10, 3, stride=2, padding=1), nn.BatchNorm2d(10), nn.ReLU(),
            nn.Conv2d(10, 12, 3, stride=2, padding=1), nn.BatchNorm2d(12), nn.ReLU())


def build(num_classes):
    anchors = AnchorGenerator(((16, 32),), ((1.0,),))
    pool = MultiScaleRoIAlign(["0"], 4, 2)
    head = nn.Sequential(nn.Flatten(), nn.Linear(12 * 16, 16), nn.ReLU())
    points = nn.Sequential(nn.Conv2d(12, 8, 3, padding=1), nn.ReLU())
    from torchvision.models.detection.faster_rcnn import FastRCNNPredictor
    from torchvision.models.detection.keypoint_rcnn import KeypointRCNNPredictor
    return KeypointRCNN(
        Backbone(), None, min_size=64, max_size=64, rpn_anchor_generator=anchors, box_roi_pool=pool, box_head=head,
        box_predictor=FastRCNNPredictor(16, num_classes), keypoint_roi_pool=pool, keypoint_head=points,
        keypoint_predictor=KeypointRCNNPredictor(8, 2), rpn_pre_nms_top_n_test=20, rpn_post_nms_top_n_test=10)
"""


def coco_folder(root: Path) -> Path:
    """Bright squares with two points each, in COCO's form."""
    rng = np.random.default_rng(0)
    for pool, count in (("train", 24), ("test", 12)):
        (root / pool).mkdir()
        images, annotations = [], []
        for number, (left, top) in enumerate(rng.integers(4, 36, (count, 2)).tolist()):
            pixels = rng.integers(0, 60, (64, 64, 3), dtype=np.uint8)
            pixels[top : top + 20, left : left + 20] = 220
            Image.fromarray(pixels).save(root / pool / f"{number}.png")
            images.append({"id": number, "file_name": f"{number}.png", "height": 64, "width": 64})
            points = list(itertools.chain((left + 2, top + 2, 2), (left + 18, top + 18, 2)))
            annotations.append({"id": number, "image_id": number, "category_id": 1, "keypoints": points,
                                "bbox": [left, top, 20, 20]})  # fmt: skip
        content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "square"}]}
        (root / f"{pool}.json").write_text(json.dumps(content))
    return root


def test_a_keypoint_rcnn_is_pruned_on_a_coco_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pycocotools")
    from rlprune.cli import main

    monkeypatch.chdir(tmp_path)
    coco_folder(tmp_path)
    (tmp_path / "net.py").write_text(POINTS)
    data = load_data(str(tmp_path))
    _, targets = next(iter(data.train.batches(2, seed=0, epoch=0)))
    assert targets[0]["keypoints"].shape == (1, 2, 3)
    common = ["--model", "net.py:build", "--data", ".", "--task", "keypoints:metric=map50", "--quiet"]
    assert main(["train", *common, "--epochs", "1", "--batch-size", "8", "--out", "base"]) == 0
    argv = ["prune", *common, "--weights", "base/model.pt", "--method", "uniform", "--tolerance", "1", "--rounds", "1"]
    assert main([*argv, "--epochs", "0.2", "--control-size", "6", "--out", "run"]) == 0
    record = json.loads((tmp_path / "run" / "record.json").read_text())
    assert record["pruned"]["macs"] < record["baseline"]["macs"] and record["baseline"]["metric"] == "map50"
