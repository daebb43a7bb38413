"""VGG-16 with batch normalisation, cut for 32x32 images: 13 convolutions and two small linear layers."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from rlprune.models.catalogue import register_model
from rlprune.models.initialise import kaiming

_STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


class VGG16(nn.Module):
    """VGG-16-BN for CIFAR, the network of PFEC (Li et al. 2016, table 2): 313.5 M MACs, 14.99 M parameters at 32x32.

    Shapes:
        input (N, in_channels, H, W) with H, W >= 32; output (N, num_classes).
    """

    def __init__(self, num_classes: int = 10, in_channels: int = 3) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        width = in_channels
        for stage in _STAGES:
            for planes in stage:
                layers += [nn.Conv2d(width, planes, 3, padding=1), nn.BatchNorm2d(planes), nn.ReLU()]
                width = planes
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.fc1 = nn.Linear(width, 512)
        self.bn = nn.BatchNorm1d(512)
        self.fc2 = nn.Linear(512, num_classes)
        kaiming(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits of a batch of images."""
        x = torch.flatten(F.adaptive_avg_pool2d(self.features(x), 1), 1)
        logits: torch.Tensor = self.fc2(F.relu(self.bn(self.fc1(x))))
        return logits


@register_model("vgg16")
def vgg16(num_classes: int = 10, in_channels: int = 3) -> nn.Module:
    """VGG-16 with batch normalisation at CIFAR size."""
    return VGG16(num_classes, in_channels)
