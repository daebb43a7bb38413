"""Models of other libraries that the channel benchmarks measure, from their configurations, with random weights.

Each library is optional (`pip install -e .[zoo]`); a builder raises ImportError without it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Subject:
    """A model, what it is called with, and how it is traced (`outputs`, `approximate`)."""

    model: nn.Module
    inputs: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)


class Crnn(nn.Module):
    """Text recognition: convolutions, then a recurrent layer over the columns (Shi et al., 2015)."""

    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        pools = {0: 2, 1: 2, 3: (2, 1), 5: (2, 1)}
        widths = (1, 64, 128, 256, 256, 512, 512)
        for place, (i, o) in enumerate(itertools.pairwise(widths)):
            layers += [nn.Conv2d(i, o, 3, padding=1, bias=False), nn.BatchNorm2d(o), nn.ReLU()]
            if place in pools:
                layers.append(nn.MaxPool2d(pools[place]))
        self.cnn = nn.Sequential(*layers, nn.Conv2d(512, 512, (2, 3), padding=(0, 1)), nn.ReLU())
        self.rnn, self.fc = kind(512, 256, num_layers=2, bidirectional=True), nn.Linear(512, 37)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, 1, 32, width) -> (columns, batch, 37)."""
        return self.fc(self.rnn(self.cnn(x).squeeze(2).permute(2, 0, 1))[0])


def timm_model(name: str, **options: Any) -> Subject:
    """One of timm's, at 224 pixels."""
    import timm

    return Subject(timm.create_model(name), (torch.randn(1, 3, 224, 224),), options=options)


def torchvision_model(name: str, **options: Any) -> Subject:
    """One of torchvision's, at 224 pixels."""
    from torchvision import models

    return Subject(models.get_model(name, weights=None), (torch.randn(1, 3, 224, 224),), options=options)


def channels_last() -> Subject:
    """ResNet-18 in the other memory format."""
    from torchvision import models

    x = torch.randn(1, 3, 224, 224).contiguous(memory_format=torch.channels_last)
    return Subject(models.resnet18(weights=None).to(memory_format=torch.channels_last), (x,))  # type: ignore[call-overload]


def ddpm() -> Subject:
    """A U-Net of the DDPM's make for 32 x 32 images (Ho et al., 2020), half as wide."""
    from diffusers import UNet2DModel

    model = UNet2DModel(
        sample_size=32,
        block_out_channels=(64, 128, 128, 128),
        layers_per_block=2,
        norm_num_groups=16,
        down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    )
    return Subject(model, (torch.randn(1, 3, 32, 32), torch.tensor([5])))


def smp_fpn() -> Subject:
    """segmentation_models_pytorch's FPN on a ResNet-34, at 256 pixels."""
    import segmentation_models_pytorch

    model = segmentation_models_pytorch.FPN("resnet34", encoder_weights=None, classes=5)
    return Subject(model, (torch.randn(1, 3, 256, 256),))


def ultralytics_detector(config: str, size: int = 320) -> Subject:
    """A detector of ultralytics; its raw features beside the predictions do not count as outputs."""
    from ultralytics.nn.tasks import DetectionModel, RTDETRDetectionModel

    kind = RTDETRDetectionModel if "detr" in config else DetectionModel
    model = kind(config, ch=3, nc=80, verbose=False)
    return Subject(model, (torch.rand(1, 3, size, size),), options={"outputs": lambda result: result[0]})


def detr() -> Subject:
    """DETR on a ResNet-50 (transformers), at 320 pixels."""
    from transformers import DetrConfig, DetrForObjectDetection, ResNetConfig

    config = DetrConfig(backbone_config=ResNetConfig(out_features=["stage4"]), use_timm_backbone=False)
    return Subject(DetrForObjectDetection(config), kwargs={"pixel_values": torch.randn(1, 3, 320, 320)})


def segformer() -> Subject:
    """SegFormer-B0 (transformers), at 256 pixels."""
    from transformers import SegformerConfig, SegformerForSemanticSegmentation

    model = SegformerForSemanticSegmentation(SegformerConfig())
    return Subject(model, kwargs={"pixel_values": torch.randn(1, 3, 256, 256)})


Builders = dict[str, Callable[[], Subject]]

TIMM: Builders = {
    name: lambda name=name: timm_model(name)  # type: ignore[misc]
    for name in ("inception_next_tiny", "res2net50_26w_4s", "resnetblur50", "tresnet_m")
}
OTHERS: Builders = {
    "resnet18, channels last": channels_last,
    "DDPM U-Net (diffusers)": ddpm,
    "FPN, resnet34 (smp)": smp_fpn,
    "CRNN, LSTM": lambda: Subject(Crnn(nn.LSTM), (torch.randn(1, 1, 32, 128),)),
    "CRNN, GRU": lambda: Subject(Crnn(nn.GRU), (torch.randn(1, 1, 32, 128),)),
    "DETR (transformers)": detr,
    "SegFormer-B0 (transformers)": segformer,
    "YOLOv8n (ultralytics)": lambda: ultralytics_detector("yolov8n.yaml"),
    "YOLO11n (ultralytics)": lambda: ultralytics_detector("yolo11n.yaml"),
    "RT-DETR-l (ultralytics)": lambda: ultralytics_detector("rtdetr-l.yaml"),
}
APPROXIMATE: Builders = {
    "convnext_tiny": lambda: torchvision_model("convnext_tiny", approximate=True),
    "convnextv2_tiny (timm)": lambda: timm_model("convnextv2_tiny", approximate=True),
    "vit_b_16": lambda: torchvision_model("vit_b_16", approximate=True),
    "vit_base_patch16_224 (timm)": lambda: timm_model("vit_base_patch16_224", approximate=True),
    "swin_t": lambda: torchvision_model("swin_t", approximate=True),
    "swin_tiny_patch4_window7_224 (timm)": lambda: timm_model("swin_tiny_patch4_window7_224", approximate=True),
}
