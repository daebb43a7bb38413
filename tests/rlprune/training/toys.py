"""A small problem that a small network learns in a second."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from rlprune.data.arrays import ArraySource
from rlprune.data.splits import Split


def shapes_split(n=96, role="train", seed=0, classes=3):
    """Noisy bars whose place says the class, (n, 1, 8, 8)."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % classes
    images = rng.normal(0, 0.5, (n, 1, 8, 8)).astype(np.float32)
    for image, label in zip(images, labels, strict=True):
        image[0, 2 * label : 2 * label + 2] += 1.5
    source = ArraySource("bars", torch.from_numpy(images), torch.from_numpy(labels.astype(np.int64)), None)
    return Split(source, np.arange(n), role)


def small_network(seed=0, norm=True):
    """Two convs and a linear layer."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1),
        nn.BatchNorm2d(6) if norm else nn.Identity(),
        nn.ReLU(),
        nn.Conv2d(6, 8, 3, stride=2, padding=1),
        nn.BatchNorm2d(8) if norm else nn.Identity(),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(128, 3),
    )
