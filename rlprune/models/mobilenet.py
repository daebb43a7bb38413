"""MobileNet V1 and V2 with the strides of 32x32 images."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from rlprune.models.catalogue import register_model
from rlprune.models.initialise import kaiming

# (output channels, stride) of every depthwise separable block
_V1 = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *((512, 1),) * 5, (1024, 2), (1024, 1))
# (expansion, output channels, blocks, stride of the first); the second stage keeps its resolution at CIFAR size
_V2 = ((1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))


class SeparableBlock(nn.Module):
    """Depthwise 3x3 then pointwise convolution, each with batch norm and ReLU (Howard et al. 2017)."""

    def __init__(self, width: int, planes: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, stride=stride, padding=1, groups=width, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, planes, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Feature map of the block."""
        x = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(x)))


class MobileNetV1(nn.Module):
    """MobileNet V1 for small images: stem stride 1, four halvings.

    Shapes:
        input (N, in_channels, H, W); output (N, num_classes).
    """

    def __init__(self, num_classes: int = 10, in_channels: int = 3) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, 32, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(32)
        blocks, width = [], 32
        for planes, stride in _V1:
            blocks.append(SeparableBlock(width, planes, stride))
            width = planes
        self.layers = nn.Sequential(*blocks)
        self.linear = nn.Linear(width, num_classes)
        kaiming(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits of a batch of images."""
        x = self.layers(F.relu(self.bn1(self.conv1(x))))
        logits: torch.Tensor = self.linear(torch.flatten(F.adaptive_avg_pool2d(x, 1), 1))
        return logits


class InvertedResidual(nn.Module):
    """Expand, depthwise, project; added to its input where shapes agree (Sandler et al. 2018)."""

    def __init__(self, width: int, planes: int, expansion: int, stride: int) -> None:
        super().__init__()
        hidden = width * expansion
        self.expands = expansion != 1
        if self.expands:
            self.conv1 = nn.Conv2d(width, hidden, 1, bias=False)
            self.bn1 = nn.BatchNorm2d(hidden)
        self.conv2 = nn.Conv2d(hidden, hidden, 3, stride=stride, padding=1, groups=hidden, bias=False)
        self.bn2 = nn.BatchNorm2d(hidden)
        self.conv3 = nn.Conv2d(hidden, planes, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(planes)
        self.residual = stride == 1 and width == planes

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Feature map of the block; linear, without a last activation."""
        out = F.relu6(self.bn1(self.conv1(x))) if self.expands else x
        out = F.relu6(self.bn2(self.conv2(out)))
        projected: torch.Tensor = self.bn3(self.conv3(out))
        return x + projected if self.residual else projected


class MobileNetV2(nn.Module):
    """MobileNet V2 for small images: stem and second stage keep the resolution, three halvings.

    Shapes:
        input (N, in_channels, H, W); output (N, num_classes).
    """

    def __init__(self, num_classes: int = 10, in_channels: int = 3) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, 32, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(32)
        blocks, width = [], 32
        for expansion, planes, count, stride in _V2:
            for index in range(count):
                blocks.append(InvertedResidual(width, planes, expansion, stride if index == 0 else 1))
                width = planes
        self.layers = nn.Sequential(*blocks)
        self.conv2 = nn.Conv2d(width, 1280, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(1280)
        self.linear = nn.Linear(1280, num_classes)
        kaiming(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits of a batch of images."""
        x = self.layers(F.relu6(self.bn1(self.conv1(x))))
        x = F.relu6(self.bn2(self.conv2(x)))
        logits: torch.Tensor = self.linear(torch.flatten(F.adaptive_avg_pool2d(x, 1), 1))
        return logits


mobilenet_v1 = register_model("mobilenet_v1")(MobileNetV1)
mobilenet_v2 = register_model("mobilenet_v2")(MobileNetV2)
