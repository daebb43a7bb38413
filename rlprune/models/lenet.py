"""LeNet-5 in its 20-50-500 form, for 28 and 32 pixel images."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from rlprune.errors import UserError
from rlprune.models.catalogue import register_model

_GRID = 4  # side of the feature map that fc1 reads


class LeNet5(nn.Module):
    """LeNet-5 with 20 and 50 filters of 5x5 and a hidden layer of 500 (LeCun et al. 1998, with Caffe's widths).

    The second pooling always ends on a 4x4 map: its stride is the largest that fits and its window covers the rest,
    which is plain 2x2 pooling at 28 pixels and overlapping 4x4 pooling with stride 2 at 32. So one set of weights
    serves both sizes.

    Shapes:
        input (N, in_channels, S, S) with S >= 20; output (N, num_classes).
    """

    def __init__(self, num_classes: int = 10, in_channels: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, 20, 5)
        self.conv2 = nn.Conv2d(20, 50, 5)
        self.fc1 = nn.Linear(50 * _GRID * _GRID, 500)
        self.fc2 = nn.Linear(500, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits of a batch of images."""
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.relu(self.conv2(x))
        height, width = x.shape[-2:]
        stride = (height // _GRID, width // _GRID)
        if min(stride) < 1:
            raise UserError("lenet5 needs images of at least 20 pixels a side; resize them or take another model")
        window = (height - (_GRID - 1) * stride[0], width - (_GRID - 1) * stride[1])
        x = F.max_pool2d(x, window, stride)
        x = F.relu(self.fc1(torch.flatten(x, 1)))
        logits: torch.Tensor = self.fc2(x)
        return logits


lenet5 = register_model("lenet5")(LeNet5)
