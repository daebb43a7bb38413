"""Scaling images to what a network expects."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from rlprune.errors import UserError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Normalisation:
    """x -> (x / scale - mean) / std, per channel.

    Attributes:
        mean: One value a channel, of images in [0, 1].
        std: Likewise.
        scale: 255 for uint8 images, 1 for arrays that are floating point already.
        rule: Where the numbers come from, in words, for the record.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    scale: float = 255.0
    rule: str = "given"

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Normalise (N, C, ...) to float32."""
        shape = (1, -1, *(1,) * (images.ndim - 2))
        mean = torch.tensor(self.mean, dtype=torch.float32, device=images.device).view(shape)
        std = torch.tensor(self.std, dtype=torch.float32, device=images.device).view(shape)
        return images.to(torch.float32).div(self.scale).sub_(mean).div_(std)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {"mean": list(self.mean), "std": list(self.std), "scale": self.scale, "rule": self.rule}


def choose_normalisation(
    rule: str | None, channels: int, scale: float, sample: Callable[[], np.ndarray], *, images: bool = True
) -> Normalisation:
    """The normalisation for a training set.

    Args:
        rule: `imagenet`; `none` (images in [0, 1], floating point as it is); `MEAN:STD`, each one number or one a
            channel with commas between; None chooses: ImageNet's constants for colour (3 channels), which is what
            public weights expect, those of the CIFAR ResNets among them, else mean and standard deviation of the
            training images, to four decimals.
        channels: Of the images.
        scale: 255 for uint8, else 1.
        images: Whether they are images, whose three channels are colours.
        sample: Gives (N, channels, ...) images, uint8 or floating point: of the train role, nothing else.

    Raises:
        UserError: The rule is not one of those, or does not fit the channels.
    """
    if rule == "none":
        return Normalisation((0.0,) * channels, (1.0,) * channels, scale, "none")
    if rule == "imagenet" and channels != 3:
        raise UserError(
            f"normalise is 'imagenet' and the images have {channels} channels; it is for colour images: give MEAN:STD"
        )
    if rule == "imagenet" or (rule is None and channels == 3 and images):
        words = "imagenet" if rule else "colour: ImageNet's constants"
        return Normalisation(IMAGENET_MEAN, IMAGENET_STD, scale, words)
    if rule is not None:
        return Normalisation(*read_constants(rule, channels), scale, "given")
    measured, mean, std = sample(), [], []
    for channel in range(channels):
        values = measured[:, channel].astype(np.float32) / scale
        mean.append(round(float(values.mean(dtype=np.float64)), 4))
        std.append(max(round(float(values.std(dtype=np.float64)), 4), 1e-4))
    return Normalisation(tuple(mean), tuple(std), scale, "mean and standard deviation of the train role")


def read_constants(text: str, channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """`0.5:0.25` or `0.5,0.4,0.4:0.2,0.2,0.2` as mean and standard deviation of every channel; raises UserError."""
    try:
        mean, std = (tuple(map(float, part.split(","))) for part in text.split(":"))
    except ValueError:
        raise UserError(
            f"normalise is {text!r}; it must be imagenet, none, from-weights, or MEAN:STD as in 0.5:0.25"
        ) from None
    for name, values in (("mean", mean), ("standard deviation", std)):
        if len(values) not in (1, channels) or not all(map(math.isfinite, values)):
            raise UserError(
                f"normalise is {text!r}; its {name} must be one finite number, or {channels} (one a channel)"
            )
    if min(std) <= 0:
        raise UserError(f"normalise is {text!r}; its standard deviation must be above 0")
    return mean * (channels // len(mean)), std * (channels // len(std))
