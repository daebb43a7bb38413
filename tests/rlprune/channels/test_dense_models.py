"""Masked equals removed on segmenters and detectors: losses in train mode; head and final outputs in eval mode.

In double precision, so that no rounding turns the order of two detections, and without dropout, which draws a number
for every channel there is. The draws of a detector's samplers are seeded.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from channel_helpers import random_plan
from torch import Tensor, nn

from rlprune.channels import mask_channels, remove_channels, trace_channels
from rlprune.channels.checking import shaken
from rlprune.channels.forward import tensors_in
from rlprune.models import resolve_model
from rlprune.tasks import get_task

models = pytest.importorskip("torchvision.models")

CLASSES = 3
SMALL = {"min_size": 128, "max_size": 160}
SEGMENTERS: dict[str, dict[str, Any]] = {
    "fcn_resnet50": {"aux_loss": True},
    "deeplabv3_resnet50": {"aux_loss": True},
    "lraspp_mobilenet_v3_large": {},
}
DETECTORS: dict[str, dict[str, Any]] = {
    "ssd300_vgg16": {},
    "ssdlite320_mobilenet_v3_large": {},
    "fasterrcnn_resnet50_fpn": SMALL,
    "fasterrcnn_mobilenet_v3_large_320_fpn": SMALL,
    "retinanet_resnet50_fpn": SMALL,
}
HEADS = ("head", "rpn.head", "roi_heads.box_predictor", "classifier")


class Backbone(nn.Module):
    """Two maps of features, the second one after a residual block."""

    out_channels = 8

    def __init__(self, maps: int) -> None:
        super().__init__()
        widths = (3, 6, 8, 8, 8)
        self.convs = nn.ModuleList(nn.Conv2d(i, o, 3, 2, 1, bias=False) for i, o in itertools.pairwise(widths))
        self.norms = nn.ModuleList(nn.BatchNorm2d(o) for o in widths[1:])
        self.extra = nn.Conv2d(8, 8, 3, padding=1)
        self.maps = maps

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        found = []
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = norm(conv(x)).relu()
            found.append(x)
        found[-1] = found[-1] + self.extra(found[-1]).relu()
        return {str(i): x for i, x in enumerate(found[-self.maps :])}


def tiny_ssd() -> nn.Module:
    from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
    from torchvision.models.detection.ssd import SSD

    backbone: Any = Backbone(2)
    backbone.out_channels = [8, 8]
    return SSD(backbone, DefaultBoxGenerator([[2], [2]], scales=[0.2, 0.5, 0.9]), (64, 64), CLASSES)


def tiny_retinanet() -> nn.Module:
    from torchvision.models.detection import RetinaNet
    from torchvision.models.detection.anchor_utils import AnchorGenerator

    anchors = AnchorGenerator(((16,), (32,)), ((0.5, 1.0),) * 2)
    return RetinaNet(Backbone(2), CLASSES, min_size=64, max_size=64, anchor_generator=anchors)


def tiny_faster_rcnn() -> nn.Module:
    from torchvision.models.detection import FasterRCNN
    from torchvision.models.detection.anchor_utils import AnchorGenerator
    from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
    from torchvision.ops import MultiScaleRoIAlign

    return FasterRCNN(
        Backbone(2),
        min_size=64,
        max_size=64,
        rpn_anchor_generator=AnchorGenerator(((16,), (32,)), ((0.5, 1.0),) * 2),
        box_roi_pool=MultiScaleRoIAlign(["0", "1"], 3, 2),
        box_head=TwoMLPHead(8 * 9, 12),
        box_predictor=FastRCNNPredictor(12, CLASSES),
        box_score_thresh=0.0,
        box_detections_per_img=20,
    )


TINY: dict[str, Callable[[], nn.Module]] = {
    "tiny SSD": tiny_ssd,
    "tiny RetinaNet": tiny_retinanet,
    "tiny Faster R-CNN": tiny_faster_rcnn,
}
ZOO = ["unet:width=4", "unet:width=4,norm=false", "ternausnet:width=2"]
FULL = ["unet:width=16", "unet:width=16,norm=false", "ternausnet:width=8", *SEGMENTERS, *DETECTORS]


def build(name: str) -> nn.Module:
    torch.manual_seed(0)
    if name in TINY:
        return TINY[name]()
    if name in SEGMENTERS or name in DETECTORS:
        options = {"weights": None, "weights_backbone": None, "num_classes": CLASSES}
        model: nn.Module = models.get_model(name, **options, **(SEGMENTERS | DETECTORS)[name])
        return model
    return resolve_model(name, num_classes=CLASSES, in_channels=3)


def batch_for(name: str) -> tuple[str, Any]:
    """The task and two images with their targets, in double precision."""
    torch.manual_seed(1)
    if name not in TINY and name not in DETECTORS:
        size = 64 if name in SEGMENTERS else 32
        return "segmentation", (torch.randn(2, 3, size, size).double(), torch.randint(0, CLASSES, (2, size, size)))
    side = 64 if name in TINY else 128
    images = [torch.rand(3, side, side).double() for _ in range(2)]
    boxes = torch.tensor([[0.1, 0.1, 0.5, 0.6], [0.4, 0.3, 0.9, 0.9]]).double() * side
    targets = [
        {"boxes": boxes[: i + 1], "labels": torch.tensor([1, 2])[: i + 1], "image_id": torch.tensor(i)} for i in (0, 1)
    ]
    return "detection", (images, targets)


def head_outputs(model: nn.Module, inputs: tuple[Any, ...]) -> tuple[list[Tensor], list[Tensor]]:
    """What the heads gave, and what the model gave, in eval mode."""
    raw: list[Tensor] = []
    there = dict(model.named_modules())
    handles = [
        there[name].register_forward_hook(lambda _, __, output: raw.extend(tensors_in(output)))
        for name in HEADS
        if name in there
    ]
    with torch.no_grad():
        final = tensors_in(model.eval()(*inputs))
    for handle in handles:
        handle.remove()
    return raw, final


def set_to_train(model: nn.Module) -> nn.Module:
    for module in model.train().modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.eval()
    return model


def pairs(name: str) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Everything that the masked and the removed network must agree on."""
    task_name, batch = batch_for(name)
    task, model = get_task(task_name), build(name).eval()
    single = [batch[0][0].float()] if task_name == "detection" else batch[0][:1].float()
    groups = trace_channels(model, single)
    plan = random_plan(groups, 0.3)
    assert plan.removed, "something is pruned, or the test says nothing"
    base = copy.deepcopy(shaken(model)).double()
    masked, removed = mask_channels(base, groups, plan), remove_channels(base, groups, plan)
    for kind, one, two in zip(
        ("head", "final"), *(head_outputs(m, task.inputs(batch)) for m in (masked, removed)), strict=True
    ):
        assert len(one) == len(two)
        yield from ((f"{kind} {i}", a, b) for i, (a, b) in enumerate(zip(one, two, strict=True)))
    yield "loss in eval mode", *(task.loss(m.eval(), batch).detach() for m in (masked, removed))
    sides = [losses_in_train_mode(set_to_train(m), task_name, batch) for m in (masked, removed)]
    assert sides[0].keys() == sides[1].keys()
    for key in sides[0]:
        yield f"{key} in train mode", sides[0][key], sides[1][key]
    yield "loss in train mode", *(task.loss(m, batch).detach() for m in (masked, removed))


def losses_in_train_mode(model: nn.Module, task: str, batch: Any) -> dict[str, Tensor]:
    torch.manual_seed(2)
    with torch.no_grad():
        found = model(*batch) if task == "detection" else model(batch[0])
    return dict(found) if isinstance(found, dict) else {"out": found}


def examine(name: str) -> None:
    seen = set()
    for what, masked, removed in pairs(name):
        assert masked.shape == removed.shape, what
        if masked.numel():
            scale = max(1.0, float(masked.double().abs().max()))
            assert float((masked.double() - removed.double()).abs().max()) <= 1e-7 * scale, what
        seen.add(what)
    assert {"loss in eval mode", "loss in train mode", "final 0"} <= seen
    if name in DETECTORS or name in TINY:
        assert "head 1" in seen and sum("in train mode" in what for what in seen) >= 3


@pytest.mark.parametrize("name", [*ZOO, *TINY])
def test_small_models(name: str) -> None:
    examine(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", FULL)
def test_the_models_of_the_literature(name: str) -> None:
    examine(name)
