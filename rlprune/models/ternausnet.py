"""TernausNet: a U-Net on VGG-11's convolutions, without batch norm."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from rlprune.errors import check_count
from rlprune.models.catalogue import register_model
from rlprune.models.initialise import kaiming
from rlprune.models.unet import pad_to_multiple


class UpBlock(nn.Module):
    """A 3x3 convolution and a transposed convolution that doubles the size, each with ReLU."""

    def __init__(self, width: int, middle: int, planes: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, middle, 3, padding=1)
        self.up = nn.ConvTranspose2d(middle, planes, 3, stride=2, padding=1, output_padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Feature map of twice the size."""
        return F.relu(self.up(F.relu(self.conv(x))))


class TernausNet(nn.Module):
    """TernausNet-11 (Iglovikov & Shvets 2018): VGG-11's eight convolutions down, transposed convolutions up.

    Args:
        num_classes: Output channels.
        in_channels: Input channels.
        width: Filters of the last decoder block, half of the first encoder's; the paper has 32.

    Shapes:
        input (N, in_channels, H, W), any H and W: sides that 32 does not divide are padded inside;
        output (N, num_classes, H, W).
    """

    def __init__(self, num_classes: int = 2, in_channels: int = 3, width: int = 32) -> None:
        super().__init__()
        w = width
        stages = ((2 * w,), (4 * w,), (8 * w, 8 * w), (16 * w, 16 * w), (16 * w, 16 * w))
        self.encoder = nn.ModuleList()
        planes = in_channels
        for stage in stages:
            convolutions = nn.ModuleList()
            for outputs in stage:
                convolutions.append(nn.Conv2d(planes, outputs, 3, padding=1))
                planes = outputs
            self.encoder.append(convolutions)
        self.centre = UpBlock(16 * w, 16 * w, 8 * w)
        self.decoder = nn.ModuleList(
            [
                UpBlock((16 + 8) * w, 16 * w, 8 * w),
                UpBlock((16 + 8) * w, 16 * w, 4 * w),
                UpBlock((8 + 4) * w, 8 * w, 2 * w),
                UpBlock((4 + 2) * w, 4 * w, w),
            ]
        )
        self.last = nn.Conv2d((2 + 1) * w, w, 3, padding=1)
        self.head = nn.Conv2d(w, num_classes, 1)
        kaiming(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits of every pixel."""
        height, width = x.shape[-2:]
        x = pad_to_multiple(x, 32)
        skips = []
        for convolutions in self.encoder:
            for convolution in convolutions:  # type: ignore[attr-defined]
                x = F.relu(convolution(x))
            skips.append(x)
            x = F.max_pool2d(x, 2)
        x = self.centre(x)
        for block, skip in zip(self.decoder, reversed(skips), strict=False):
            x = block(torch.cat((x, skip), dim=1))
        x = F.relu(self.last(torch.cat((x, skips[0]), dim=1)))
        logits: torch.Tensor = self.head(x)
        return logits[:, :, :height, :width]


@register_model("ternausnet")
def ternausnet(num_classes: int = 2, in_channels: int = 3, width: int = 32) -> nn.Module:
    """TernausNet on VGG-11; `ternausnet:width=8` makes a small one."""
    check_count("option width of ternausnet", width)
    return TernausNet(num_classes, in_channels, width)
