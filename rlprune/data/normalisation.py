"""Scaling images to what a network expects."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

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
        """Normalise (N, C, H, W) to float32."""
        shape = (1, -1, 1, 1)
        mean = torch.tensor(self.mean, dtype=torch.float32, device=images.device).view(shape)
        std = torch.tensor(self.std, dtype=torch.float32, device=images.device).view(shape)
        return images.to(torch.float32).div(self.scale).sub_(mean).div_(std)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {"mean": list(self.mean), "std": list(self.std), "scale": self.scale, "rule": self.rule}


def choose_normalisation(images: np.ndarray, scale: float) -> Normalisation:
    """The normalisation for a training set, by one rule.

    Colour images (3 channels) get ImageNet's constants, which is what public weights expect, those of the CIFAR
    ResNets among them. Other images get the mean and standard deviation of the training images, to four decimals.

    Args:
        images: (N, C, H, W), uint8 or floating point: the train role, nothing else.
        scale: 255 for uint8, else 1.
    """
    channels = images.shape[1]
    if channels == 3:
        return Normalisation(IMAGENET_MEAN, IMAGENET_STD, scale, "colour: ImageNet's constants")
    mean, std = [], []
    for channel in range(channels):
        values = images[:, channel].astype(np.float32) / scale
        mean.append(round(float(values.mean(dtype=np.float64)), 4))
        std.append(max(round(float(values.std(dtype=np.float64)), 4), 1e-4))
    return Normalisation(tuple(mean), tuple(std), scale, "mean and standard deviation of the train role")
