"""VGG-16 with batch normalisation, cut for 32x32 images: 13 convolutions and two small linear layers."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from rlprune.errors import UserError
from rlprune.models.catalogue import register_model
from rlprune.models.initialise import kaiming

_STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


class VGG16(nn.Module):
    """VGG-16-BN for CIFAR, the network of PFEC (Li et al. 2016, table 2): 313.5 M MACs, 14.99 M parameters at 32x32.

    Args:
        num_classes: Outputs.
        in_channels: Input channels.
        width: Multiplier of every layer's width, > 0; 1 is the paper's.

    Shapes:
        input (N, in_channels, H, W) with H, W >= 32; output (N, num_classes).
    """

    def __init__(self, num_classes: int = 10, in_channels: int = 3, width: float = 1.0) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inputs = in_channels
        for stage in _STAGES:
            for planes in (max(1, round(planes * width)) for planes in stage):
                layers += [nn.Conv2d(inputs, planes, 3, padding=1), nn.BatchNorm2d(planes), nn.ReLU()]
                inputs = planes
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.fc1 = nn.Linear(inputs, inputs)
        self.bn = nn.BatchNorm1d(inputs)
        self.fc2 = nn.Linear(inputs, num_classes)
        kaiming(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits of a batch of images."""
        x = torch.flatten(F.adaptive_avg_pool2d(self.features(x), 1), 1)
        logits: torch.Tensor = self.fc2(F.relu(self.bn(self.fc1(x))))
        return logits


@register_model("vgg16")
def vgg16(num_classes: int = 10, in_channels: int = 3, width: float = 1.0) -> nn.Module:
    """VGG-16 with batch normalisation at CIFAR size; `vgg16:width=0.25` is a quarter as wide everywhere."""
    if not 0 < width <= 16:
        raise UserError(f"option width of vgg16 is {width}; it must lie in (0, 16]")
    return VGG16(num_classes, in_channels, width)
