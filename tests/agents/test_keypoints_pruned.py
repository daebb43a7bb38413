"""Keypoint R-CNN on COCO's files: trained, and pruned to a tolerance by the default command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from rlprune.agents import replay
from rlprune.cli import main
from rlprune.record import RunFolder

NETWORK = """
from torch import nn
from torchvision.models.detection import KeypointRCNN
from torchvision.models.detection.rpn import AnchorGenerator
from torchvision.ops import MultiScaleRoIAlign


def block(before, after):
    return nn.Sequential(nn.Conv2d(before, after, 3, 2, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU())


class Boxes(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.score, self.box = nn.Linear(64, classes), nn.Linear(64, 4 * classes)

    def forward(self, x):
        return self.score(x), self.box(x)


def build(num_classes):
    backbone = nn.Sequential(block(3, 16), block(16, 32), block(32, 48), nn.Conv2d(48, 48, 3, 1, 1), nn.ReLU())
    backbone.out_channels = 48
    return KeypointRCNN(
        backbone, None, min_size=96, max_size=96, image_mean=[0.5] * 3, image_std=[0.25] * 3,
        rpn_anchor_generator=AnchorGenerator(((16, 32),), ((1.0,),)), box_roi_pool=MultiScaleRoIAlign(["0"], 5, 2),
        keypoint_roi_pool=MultiScaleRoIAlign(["0"], 7, 2), box_predictor=Boxes(num_classes),
        box_head=nn.Sequential(nn.Flatten(), nn.Linear(48 * 25, 64), nn.ReLU()),
        keypoint_head=nn.Sequential(nn.Conv2d(48, 32, 3, 1, 1), nn.ReLU(), nn.Conv2d(32, 32, 3, 1, 1), nn.ReLU()),
        keypoint_predictor=nn.Sequential(nn.ConvTranspose2d(32, 2, 4, 2, 1), nn.Upsample(None, 2.0, "bilinear")),
        rpn_pre_nms_top_n_train=200, rpn_post_nms_top_n_train=50, rpn_pre_nms_top_n_test=100,
        rpn_post_nms_top_n_test=20, box_batch_size_per_image=32, box_detections_per_img=5)
"""


def drawn(folder: Path, role: str, count: int, draw: np.random.Generator) -> None:
    """Squares of 24 to 43 pixels, a red and a blue dot in opposite corners of each, which are its key points."""
    (folder / role).mkdir(parents=True)
    images, annotations = list[dict[str, Any]](), list[dict[str, Any]]()
    for i in range(count):
        image, side = draw.integers(0, 80, (96, 96, 3), np.uint8), int(draw.integers(24, 44))
        x, y = (int(draw.integers(4, 92 - side)) for _ in range(2))
        image[y : y + side, x : x + side] = 170
        points = [(x + 4, y + 4), (x + side - 5, y + side - 5)][:: 1 if draw.random() < 0.5 else -1]
        for (u, v), colour in zip(points, ((255, 0, 0), (0, 0, 255)), strict=True):
            image[v - 4 : v + 5, u - 4 : u + 5] = colour
        Image.fromarray(image).save(folder / role / f"{i}.png")
        images.append({"id": i, "file_name": f"{i}.png", "width": 96, "height": 96})
        there = [value for point in points for value in (*point, 2)]
        box = {"bbox": [x, y, side, side], "area": side * side, "iscrowd": 0, "keypoints": there}
        annotations.append({"id": i + 1, "image_id": i, "category_id": 1, **box})
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "square"}]}
    (folder / f"{role}.json").write_text(json.dumps(content))


@pytest.mark.slow
def test_a_keypoint_rcnn_is_pruned_to_a_tolerance(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    drawn(tmp_path / "squares", "train", 160, draw)
    drawn(tmp_path / "squares", "val", 80, draw)
    (tmp_path / "net.py").write_text(NETWORK)
    what = ["--model", f"{tmp_path}/net.py:build", "--data", f"{tmp_path}/squares", "--task", "keypoints:metric=map50"]
    learn = ["--epochs", "15", "--lr", "0.003", "--optimizer", "adamw", "--batch-size", "8"]
    assert main(["train", *what, *learn, "--out", f"{tmp_path}/base", "--quiet"]) == 0
    goal = ["--weights", f"{tmp_path}/base/model.pt", "--tolerance", "0.05", "--epochs", "15"]
    assert main(["prune", *what, *goal, "--out", f"{tmp_path}/run", "--quiet"]) == 0
    record = RunFolder(tmp_path / "run").read()
    assert record["baseline"]["control_score"] > 0.9 and record["drop"] <= 0.05
    assert record["pruned"]["macs"] < 0.5 * record["baseline"]["macs"]
    assert replay(tmp_path / "run")["checks"]
