"""The CIFAR ResNets of He et al. 2016, section 4.2: three stages of 16, 32 and 64 channels, option-A shortcuts."""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import nn

from rlprune.models.catalogue import register_model
from rlprune.models.initialise import kaiming


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut without parameters.

    Where the stage changes, the shortcut takes every second pixel and pads the channels with zeros, half before and
    half after (option A).
    """

    def __init__(self, width: int, planes: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, planes, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.stride = stride
        self.padding = (planes - width) // 2

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Residual sum after the last ReLU."""
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        if self.stride != 1 or self.padding:
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.padding, self.padding))
        return F.relu(out + x)


class CifarResNet(nn.Module):
    """ResNet of depth 6n+2 for small images.

    Shapes:
        input (N, in_channels, H, W); output (N, num_classes).
    """

    def __init__(self, blocks: int, num_classes: int = 10, in_channels: int = 3) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = _stage(16, 16, blocks, stride=1)
        self.layer2 = _stage(16, 32, blocks, stride=2)
        self.layer3 = _stage(32, 64, blocks, stride=2)
        self.linear = nn.Linear(64, num_classes)
        kaiming(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits of a batch of images."""
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        logits: torch.Tensor = self.linear(torch.flatten(F.adaptive_avg_pool2d(x, 1), 1))
        return logits


def _stage(width: int, planes: int, blocks: int, stride: int) -> nn.Sequential:
    first = BasicBlock(width, planes, stride)
    return nn.Sequential(first, *(BasicBlock(planes, planes, 1) for _ in range(blocks - 1)))


# At CIFAR size with option A; ResNet-56 has 125.49 M MACs and 0.853 M parameters
resnet20, resnet32, resnet44, resnet56, resnet110 = (
    register_model(f"resnet{depth}")(partial(CifarResNet, (depth - 2) // 6)) for depth in (20, 32, 44, 56, 110)
)
