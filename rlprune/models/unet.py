"""U-Net with zero-padded convolutions, so that the output has the size of the input."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from rlprune.errors import check_count
from rlprune.models.catalogue import register_model
from rlprune.models.initialise import kaiming

_LEVELS = 4


class DoubleConv(nn.Module):
    """Two 3x3 convolutions, each with batch norm (optional) and ReLU."""

    def __init__(self, width: int, planes: int, norm: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, planes, 3, padding=1, bias=not norm)
        self.bn1: nn.Module = nn.BatchNorm2d(planes) if norm else nn.Identity()
        self.conv2 = nn.Conv2d(planes, planes, 3, padding=1, bias=not norm)
        self.bn2: nn.Module = nn.BatchNorm2d(planes) if norm else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Feature map of the same size."""
        x = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(x)))


class UNet(nn.Module):
    """U-Net (Ronneberger et al. 2015): four halvings, transposed convolutions back up, concatenating skips.

    Args:
        num_classes: Output channels.
        in_channels: Input channels.
        width: Filters of the first level; every level below has twice those of the one above. The paper has 64.
        norm: Batch norm after every convolution; the paper has none.

    Shapes:
        input (N, in_channels, H, W), any H and W: sides that 16 does not divide are padded inside;
        output (N, num_classes, H, W).
    """

    def __init__(self, num_classes: int = 2, in_channels: int = 3, width: int = 64, norm: bool = True) -> None:
        super().__init__()
        widths = [width * 2**level for level in range(_LEVELS + 1)]
        inputs = [in_channels, *widths[:-1]]
        self.down = nn.ModuleList(DoubleConv(i, o, norm) for i, o in zip(inputs, widths, strict=True))
        self.up = nn.ModuleList(nn.ConvTranspose2d(2 * w, w, 2, stride=2) for w in reversed(widths[:-1]))
        self.merge = nn.ModuleList(DoubleConv(2 * w, w, norm) for w in reversed(widths[:-1]))
        self.head = nn.Conv2d(width, num_classes, 1)
        kaiming(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits of every pixel."""
        height, width = x.shape[-2:]
        x = pad_to_multiple(x, 2**_LEVELS)
        skips = []
        for level, block in enumerate(self.down):
            x = block(F.max_pool2d(x, 2) if level else x)
            skips.append(x)
        for up, merge, skip in zip(self.up, self.merge, reversed(skips[:-1]), strict=True):
            x = merge(torch.cat((skip, up(x)), dim=1))
        logits: torch.Tensor = self.head(x)
        return logits[:, :, :height, :width]


def pad_to_multiple(x: torch.Tensor, multiple: int) -> torch.Tensor:
    """Zeros at the right and lower edges, so that `multiple` divides both sides of (N, C, H, W)."""
    bottom, right = -x.shape[-2] % multiple, -x.shape[-1] % multiple
    return F.pad(x, (0, right, 0, bottom)) if bottom or right else x


@register_model("unet")
def unet(num_classes: int = 2, in_channels: int = 3, width: int = 64, norm: bool = True) -> nn.Module:
    """U-Net; `unet:width=16,norm=false` sets its options."""
    check_count("option width of unet", width)
    return UNet(num_classes, in_channels, width, norm)
