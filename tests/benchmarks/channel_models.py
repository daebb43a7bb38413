"""The models that the channel benchmarks measure: torchvision's families, and those of `channel_zoo`."""

from __future__ import annotations

from typing import Any

import torch
from channel_zoo import APPROXIMATE, OTHERS, TIMM, Builders, Subject
from torch import nn

CLASSIFIERS = [
    "alexnet", "vgg16", "vgg16_bn", "resnet18", "resnet50", "resnext50_32x4d", "wide_resnet50_2", "densenet121",
    "googlenet", "inception_v3", "squeezenet1_0", "mobilenet_v2", "mobilenet_v3_large", "mnasnet1_0",
    "shufflenet_v2_x1_0", "efficientnet_b0", "efficientnet_v2_s", "regnet_y_400mf", "convnext_tiny",
]  # fmt: skip
TRANSFORMERS = ["vit_b_16", "swin_t", "maxvit_t"]
SEGMENTERS = ["fcn_resnet50", "deeplabv3_resnet50", "deeplabv3_mobilenet_v3_large", "lraspp_mobilenet_v3_large"]
DETECTORS = [
    "ssd300_vgg16", "ssdlite320_mobilenet_v3_large", "retinanet_resnet50_fpn", "fcos_resnet50_fpn",
    "fasterrcnn_resnet50_fpn", "maskrcnn_resnet50_fpn", "keypointrcnn_resnet50_fpn",
]  # fmt: skip


def build(name: str, image: int | None = None) -> tuple[nn.Module, tuple[Any, ...]]:
    """A model with random weights in evaluation mode, and example inputs.

    Args:
        name: torchvision's name; with "@native" at the end, a detector keeps its own sizes (Faster R-CNN: 800 x 1066
            pixels) and gets an image of 480 x 640.
        image: side of the image; default: 224 for classification and segmentation, 320 for detection.
    """
    from torchvision import models

    torch.manual_seed(0)
    name, _, native = name.partition("@")
    options: dict[str, Any] = {"weights": None}
    if name in DETECTORS + SEGMENTERS:
        options["weights_backbone"] = None
    if name in ("googlenet", "inception_v3"):
        options["init_weights"] = False
    if name in DETECTORS and not name.startswith("ssd") and not native:
        options |= {"min_size": image or 320, "max_size": image or 320}
    if "rcnn" in name:
        options["box_score_thresh"] = 0.0  # else untrained heads detect nothing, and mask heads run on nothing
        options["box_detections_per_img"] = 10
    model = models.get_model(name, **options).eval()
    if native:
        return model, ([torch.rand(3, 480, 640)],)
    if name in DETECTORS:
        return model, ([torch.rand(3, image or 320, image or 320)],)
    side = image or (299 if name == "inception_v3" else 224)
    return model, (torch.randn(1, 3, side, side),)


def _builders(names: list[str]) -> Builders:
    return {name: lambda name=name: Subject(*build(name)) for name in names}  # type: ignore[misc]


FAMILIES: dict[str, Builders] = {
    "classification": _builders(CLASSIFIERS),
    "segmentation": _builders(SEGMENTERS),
    "detection": _builders(DETECTORS),
    "transformers": _builders(TRANSFORMERS),
    "of timm": TIMM,
    "of other libraries and kinds": OTHERS,
    "approximate groups": APPROXIMATE,
}
