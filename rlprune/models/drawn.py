"""Networks drawn from a grammar: families of the literature, sizes from a seed, for images of 32 pixels.

`drawn:FAMILY-SEED` names one, such as `drawn:dense-3`: the same network everywhere. Populations to train agents on are
made of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rlprune.cost import count_macs
from rlprune.errors import UserError, check_known
from rlprune.models.initialise import kaiming
from rlprune.registry import Registry
from rlprune.seeding import numpy_generator

LAYERS, WIDTHS, MACS = (6, 40), (8, 256), (2e6, 1.5e7)
"""The least and the most of convolutions, of filters in one, and of MACs at 32 pixels, that a drawn network has."""

SIDE, ATTEMPTS = 32, 1000


@dataclass(frozen=True)
class Draws:
    """What the seed decides, one choice after the other."""

    stream: np.random.Generator

    def whole(self, low: int, high: int) -> int:
        """A whole number, both ends with it."""
        return int(self.stream.integers(low, high + 1))

    def of(self, *options: int) -> int:
        """One of the options."""
        return int(self.stream.choice(options))

    def width(self, low: float, high: float) -> int:
        """A width, even in its logarithm, a multiple of four."""
        return max(WIDTHS[0], 4 * round(float(np.exp(self.stream.uniform(np.log(low), np.log(high)))) / 4))


FAMILIES: Registry[Callable[[Draws, int], tuple[list[nn.Module], int]]] = Registry("family of drawn networks")
"""By name: the layers behind a stem of a given width, and the width they end at."""


def conv(inputs: int, outputs: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    """A convolution that keeps the resolution (up to its stride), and batch norm."""
    layer = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return [layer, nn.BatchNorm2d(outputs)]


def active(*parts: list[nn.Module]) -> list[nn.Module]:
    """The parts with a ReLU behind each."""
    return [layer for part in parts for layer in (*part, nn.ReLU())]


class Sum(nn.Module):
    """A branch added to its input, which is subsampled, padded with zero channels, or brought there by a layer.

    Args:
        branch: What is added.
        shortcut: A layer that brings the input to the sum's shape; None subsamples and pads (option A of He et al.).
        stride: Of the branch.
        more: Channels that the branch ends with beyond those of the input.
        last: What follows the sum.
    """

    def __init__(
        self, branch: list[nn.Module], shortcut: list[nn.Module] | None, stride: int, more: int, last: nn.Module
    ) -> None:
        super().__init__()
        self.branch = nn.Sequential(*branch)
        self.shortcut = None if shortcut is None else nn.Sequential(*shortcut)
        self.stride, self.padding, self.last = stride, (more // 2, more - more // 2), last

    def forward(self, x: Tensor) -> Tensor:
        """The sum, and what follows it."""
        out = self.branch(x)
        if self.shortcut is not None:
            x = self.shortcut(x)
        elif self.stride > 1 or any(self.padding):
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, *self.padding))
        summed: Tensor = self.last(out + x)
        return summed


class Excite(nn.Module):
    """Squeeze and excitation (Hu et al. 2018): every channel scaled by what the means of all of them say."""

    def __init__(self, width: int, reduced: int) -> None:
        super().__init__()
        self.squeeze, self.excite = nn.Conv2d(width, reduced, 1), nn.Conv2d(reduced, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """The scaled channels."""
        scale = self.excite(F.relu(self.squeeze(F.adaptive_avg_pool2d(x, 1))))
        return x * torch.sigmoid(scale)


class Joined(nn.Module):
    """What a branch makes of its input, behind the input itself (Huang et al. 2017)."""

    def __init__(self, branch: list[nn.Module]) -> None:
        super().__init__()
        self.branch = nn.Sequential(*branch)

    def forward(self, x: Tensor) -> Tensor:
        """Both, channel behind channel."""
        return torch.cat([x, self.branch(x)], 1)


@FAMILIES.register("plain")
def _plain(draw: Draws, width: int) -> tuple[list[nn.Module], int]:
    """Convolutions one behind the other, of uneven widths, with pooling between stages (as VGG)."""
    layers: list[nn.Module] = []
    for stage in range(draw.whole(3, 4)):
        for _ in range(draw.whole(1, 4)):
            outputs = min(WIDTHS[1], draw.width(10 * 1.7**stage, 40 * 1.9**stage))
            layers += active(conv(width, outputs, draw.of(3, 3, 3, 5)))
            width = outputs
        layers.append(nn.MaxPool2d(2))
    return layers, width


def _residual(
    draw: Draws, width: int, blocks: tuple[int, int], block: Callable[[int, int, int], nn.Module], wider: int = 1
) -> tuple[list[nn.Module], int]:
    """Three stages of blocks, each of which is made of the width before, its own, and a stride."""
    layers: list[nn.Module] = []
    for stage in range(3):
        outputs = min(WIDTHS[1], width * (wider if stage == 0 else draw.of(1, 2, 2)))
        for number in range(draw.whole(*blocks)):
            layers.append(block(width, outputs, 2 if stage and not number else 1))
            width = outputs
    return layers, width


def _basic(draw: Draws, projects: bool, excites: bool = False) -> Callable[[int, int, int], nn.Module]:
    """Two 3x3 convolutions, the inner one of a width of its own."""
    share = draw.of(2, 3, 4, 4, 6) / 4

    def block(inputs: int, outputs: int, stride: int) -> nn.Module:
        inner = max(WIDTHS[0], min(WIDTHS[1], int(outputs * share)))
        branch = [*active(conv(inputs, inner, 3, stride)), *conv(inner, outputs)]
        branch += [Excite(outputs, max(WIDTHS[0], outputs // 4))] if excites else []
        changes = stride > 1 or inputs != outputs
        shortcut = conv(inputs, outputs, 1, stride) if projects and changes else None
        return Sum(branch, shortcut, stride, outputs - inputs, nn.ReLU())

    return block


# The ResNets of CIFAR: shortcuts without parameters; 1x1 convolutions in the shortcuts; squeeze and excitation
FAMILIES.register("residual")(lambda draw, width: _residual(draw, width, (1, 5), _basic(draw, projects=False)))
FAMILIES.register("projected")(lambda draw, width: _residual(draw, width, (1, 4), _basic(draw, projects=True)))
FAMILIES.register("squeeze")(lambda draw, width: _residual(draw, width, (1, 4), _basic(draw, True, excites=True)))


@FAMILIES.register("wide")
def _wide(draw: Draws, width: int) -> tuple[list[nn.Module], int]:
    """Few wide blocks that normalise first (Zagoruyko & Komodakis 2016)."""

    def block(inputs: int, outputs: int, stride: int) -> nn.Module:
        second = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        branch = [nn.BatchNorm2d(inputs), nn.ReLU(), *active(conv(inputs, outputs, 3, stride)), second]
        shortcut: list[nn.Module] | None = None
        if stride > 1 or inputs != outputs:
            shortcut = [nn.Conv2d(inputs, outputs, 1, stride, bias=False)]
        return Sum(branch, shortcut, stride, 0, nn.Identity())

    layers, width = _residual(draw, width, (1, 3), block, wider=draw.of(1, 2, 3))
    return [*layers, nn.BatchNorm2d(width), nn.ReLU()], width


def _bottle(draw: Draws, width: int, grouped: bool) -> tuple[list[nn.Module], int]:
    """1x1, 3x3 (in groups), 1x1."""
    narrower, groups = draw.of(2, 4), draw.of(2, 4) if grouped else 1

    def block(inputs: int, outputs: int, stride: int) -> nn.Module:
        inner = max(WIDTHS[0], outputs // narrower)
        inner -= inner % groups
        branch = [*active(conv(inputs, inner, 1), conv(inner, inner, 3, stride, groups)), *conv(inner, outputs, 1)]
        shortcut = conv(inputs, outputs, 1, stride) if stride > 1 or inputs != outputs else None
        return Sum(branch, shortcut, stride, 0, nn.ReLU())

    return _residual(draw, width, (1, 3), block, wider=draw.of(2, 3))


# Narrow 3x3 convolutions between 1x1 ones (He et al. 2016); the same in groups (Xie et al. 2017)
FAMILIES.register("bottleneck")(partial(_bottle, grouped=False))
FAMILIES.register("grouped")(partial(_bottle, grouped=True))


@FAMILIES.register("separable")
def _separable(draw: Draws, width: int) -> tuple[list[nn.Module], int]:
    """Depthwise, then pointwise convolutions (Howard et al. 2017)."""

    def block(inputs: int, outputs: int, stride: int) -> nn.Module:
        return nn.Sequential(*active(conv(inputs, inputs, 3, stride, inputs), conv(inputs, outputs, 1)))

    return _residual(draw, width, (2, 5), block, wider=2)


@FAMILIES.register("inverted")
def _inverted(draw: Draws, width: int) -> tuple[list[nn.Module], int]:
    """Expand, depthwise, project without an activation (Sandler et al. 2018)."""
    expansion = draw.of(2, 3, 4, 6)

    def block(inputs: int, outputs: int, stride: int) -> nn.Module:
        inner = min(WIDTHS[1], inputs * expansion)
        branch = [*active(conv(inputs, inner, 1), conv(inner, inner, 3, stride, inner)), *conv(inner, outputs, 1)]
        return nn.Sequential(*branch) if stride > 1 or inputs != outputs else Sum(branch, None, 1, 0, nn.Identity())

    layers, width = _residual(draw, width, (1, 4), block)
    outputs = min(WIDTHS[1], 2 * width)
    return [*layers, *active(conv(width, outputs, 1))], outputs


@FAMILIES.register("dense")
def _dense(draw: Draws, width: int) -> tuple[list[nn.Module], int]:
    """Every layer reads all before it in its stage; 1x1 convolutions and pooling between stages (Huang et al. 2017)."""
    growth, narrows = draw.of(8, 12, 16), draw.of(0, 1)
    layers: list[nn.Module] = []
    for stage in range(3):
        if stage:
            layers += [nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, width // 2, 1, bias=False), nn.AvgPool2d(2)]
            width //= 2
        for _ in range(draw.whole(2, 6)):
            before = active(conv(width, 2 * growth, 1)) if narrows else []
            last = nn.Conv2d(2 * growth if narrows else width, growth, 3, padding=1, bias=False)
            layers.append(Joined([nn.BatchNorm2d(width), nn.ReLU(), *before, last]))
            width += growth
    return [*layers, nn.BatchNorm2d(width), nn.ReLU()], width


class Drawn(nn.Module):
    """A stem, the family's layers, a mean over the positions, and a classifier.

    Shapes:
        input (N, in_channels, H, W); output (N, num_classes).
    """

    def __init__(self, family: str, draw: Draws, num_classes: int, in_channels: int) -> None:
        super().__init__()
        width = draw.width(8, 32)
        self.stem = nn.Sequential(*active(conv(in_channels, width)))
        layers, width = FAMILIES.get(family)(draw, width)
        self.layers, self.linear = nn.Sequential(*layers), nn.Linear(width, num_classes)
        kaiming(self)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of a batch of images."""
        x = self.layers(self.stem(x))
        logits: Tensor = self.linear(torch.flatten(F.adaptive_avg_pool2d(x, 1), 1))
        return logits


def family_of(spec: str) -> tuple[str, int]:
    """Family and seed of `drawn:FAMILY-SEED`.

    Raises:
        UserError: There is no such family, or the seed is no whole number >= 0.

    >>> family_of("drawn:dense-3")
    ('dense', 3)
    """
    family, _, seed = spec.removeprefix("drawn:").partition("-")
    check_known("family of drawn networks", family, FAMILIES.names())
    if not (seed.isascii() and seed.isdecimal()):
        raise UserError(f"{spec} has no seed; it must be drawn:FAMILY-SEED, as in drawn:{family}-0")
    return family, int(seed)


def drawn(name: str, num_classes: int, in_channels: int) -> nn.Module:
    """The network `FAMILY-SEED`, with fresh weights; its shape is drawn until it has the size of its kind.

    Raises:
        UserError: There is no such family, or the seed is no whole number >= 0.
    """
    family, seed = family_of(f"drawn:{name}")
    draw = Draws(numpy_generator(seed, "drawn", family))
    for _ in range(ATTEMPTS):
        model = Drawn(family, draw, num_classes, in_channels)
        if _within(model, in_channels):
            return model
    raise AssertionError(f"no {family} network of that size in {ATTEMPTS} draws")


def _within(model: nn.Module, in_channels: int) -> bool:
    """Whether layers, widths and MACs are what a drawn network has."""
    widths = [layer.out_channels for layer in model.modules() if isinstance(layer, nn.Conv2d)]
    if not (LAYERS[0] <= len(widths) <= LAYERS[1] and WIDTHS[0] <= min(widths) and max(widths) <= WIDTHS[1]):
        return False
    return MACS[0] <= count_macs(model.eval(), torch.zeros(1, in_channels, SIDE, SIDE)) <= MACS[1]
