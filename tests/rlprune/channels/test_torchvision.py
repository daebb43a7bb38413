"""Torchvision's families, untouched and with random weights: traced, checked, pruned at 30 %, equal to the mask."""

from __future__ import annotations

import pytest
import torch
from channel_helpers import difference, random_plan
from torch import nn

from rlprune.channels import ChannelGroups, remove_channels, trace_channels
from rlprune.channels.forward import Forward
from rlprune.cost import CostModel, count_macs, count_parameters

models = pytest.importorskip("torchvision.models")

FAST = ["resnet18", "mobilenet_v3_small", "squeezenet1_1", "shufflenet_v2_x0_5"]
CLASSIFIERS = [
    "alexnet", "vgg16", "resnet50", "resnext50_32x4d", "wide_resnet50_2", "densenet121", "googlenet", "inception_v3",
    "squeezenet1_0", "mobilenet_v2", "mobilenet_v3_large", "mnasnet1_0", "shufflenet_v2_x1_0", "efficientnet_b0",
    "efficientnet_v2_s", "regnet_x_400mf", "regnet_y_400mf", "convnext_tiny",
    "vgg11_bn",
]  # fmt: skip
TRANSFORMERS = ["vit_b_32", "swin_t", "swin_v2_t", "maxvit_t"]
SEGMENTERS = ["fcn_resnet50", "deeplabv3_resnet50", "deeplabv3_mobilenet_v3_large", "lraspp_mobilenet_v3_large"]
SMALL = {"min_size": 128, "max_size": 160}
FEW = {**SMALL, "box_score_thresh": 0.0, "box_detections_per_img": 5}
DETECTORS = {
    "ssd300_vgg16": {}, "ssdlite320_mobilenet_v3_large": {}, "retinanet_resnet50_fpn": SMALL,
    "retinanet_resnet50_fpn_v2": SMALL, "fcos_resnet50_fpn": SMALL, "fasterrcnn_resnet50_fpn": FEW,
    "fasterrcnn_resnet50_fpn_v2": FEW, "fasterrcnn_mobilenet_v3_large_320_fpn": FEW, "maskrcnn_resnet50_fpn": FEW,
    "keypointrcnn_resnet50_fpn": FEW,
}  # fmt: skip


def build(name: str) -> tuple[nn.Module, tuple]:
    torch.manual_seed(0)
    options: dict = {"weights": None}
    if name in DETECTORS or name in SEGMENTERS:
        options |= {"weights_backbone": None, **DETECTORS.get(name, {})}
    if name in ("googlenet", "inception_v3"):
        options["init_weights"] = False
    model = models.get_model(name, **options).eval()
    if name in DETECTORS:
        return model, ([torch.rand(3, 128, 150)],)
    size = {"inception_v3": 128, "maxvit_t": 224, "vit_b_32": 224}.get(name, 64)
    return model, (torch.randn(1, 3, size, size),)


def examine(name: str) -> ChannelGroups:
    model, inputs = build(name)
    groups = trace_channels(model, *inputs)
    plan = random_plan(groups, 0.3)
    cost = CostModel(groups)
    pruned = remove_channels(model, groups, plan)
    assert cost.macs() == count_macs(model, *inputs)
    assert cost.parameters(plan.counts) == count_parameters(pruned)
    if name not in DETECTORS:  # the number of proposals depends on the values
        assert cost.macs(plan.counts) == count_macs(pruned, *inputs)
    with torch.no_grad():
        Forward(inputs)(pruned)
    assert difference(model, groups, plan, *inputs) < 1e-6
    for group in groups:
        assert group.locked is None or "together with other groups" not in group.locked
    return groups


def share(groups: ChannelGroups) -> float:
    """MACs of the layers that produce prunable channels."""
    producers = {name for group in groups.prunable for name in group.producers}
    return sum(groups.layers[name].macs for name in producers) / CostModel(groups).macs()


@pytest.mark.parametrize("name", FAST)
def test_small_classifiers(name: str) -> None:
    assert share(examine(name)) > (0.6 if "shufflenet" in name else 0.7)  # shuffles tie most of its channels


@pytest.mark.slow
@pytest.mark.parametrize("name", CLASSIFIERS)
def test_classifiers(name: str) -> None:
    assert share(examine(name)) > (0.4 if name == "convnext_tiny" else 0.6)


@pytest.mark.slow
@pytest.mark.parametrize("name", SEGMENTERS)
def test_segmentation(name: str) -> None:
    assert share(examine(name)) > 0.9


@pytest.mark.slow
@pytest.mark.parametrize("name", DETECTORS)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_detection(name: str) -> None:
    assert share(examine(name)) > 0.4


@pytest.mark.slow
@pytest.mark.parametrize("name", TRANSFORMERS)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_transformers_are_pruned_around_attention(name: str) -> None:
    groups = examine(name)
    assert groups.prunable and any("normalisation" in str(g.locked) for g in groups)
