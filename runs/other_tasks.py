"""Data and networks of four tasks that are no classification of images; `runs/other_tasks.sh` trains and prunes them.

python runs/other_tasks.py FOLDER writes regression.npz, heads.npz, image.npz and signals.npz into it.
"""

import sys
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits
from torch import nn


def blobs(draw, n=1400):
    """Noisy images of a bright blob, (n, 12, 12); where it is and how wide, (n, 3), in shares of the image."""
    wanted = draw.uniform((0.25, 0.25, 0.08), (0.75, 0.75, 0.25), (n, 3)).astype(np.float32)
    grid = (np.arange(12) + 0.5) / 12
    x, y, wide = (wanted[:, i, None, None] for i in range(3))
    light = np.exp(-((grid[None, None] - x) ** 2 + (grid[None, :, None] - y) ** 2) / (2 * wide**2))
    return (light + 0.15 * draw.standard_normal(light.shape)).astype(np.float32), wanted


def turned_digits(draw):
    """Digits turned by quarters, (n, 8, 8); the digit and the quarters, (n, 2)."""
    digits = load_digits()
    quarters = draw.integers(4, size=len(digits.target))
    turned = [np.rot90(image, k) for image, k in zip(digits.images / 16, quarters, strict=True)]
    return np.stack(turned).astype(np.float32), np.stack((digits.target, quarters), 1).astype(np.float32)


def noisy_digits(draw):
    """Digits under noise, and without it, both (n, 1, 8, 8)."""
    clean = (load_digits().images / 16).astype(np.float32)[:, None]
    return (clean + 0.3 * draw.standard_normal(clean.shape)).astype(np.float32), clean


def waves(draw, n=1600):
    """Noisy signals, (n, 128): sines, squares, saw teeth and chirps of many pitches; which of them."""
    kind, t = draw.integers(4, size=n), np.arange(128)[None]
    pitch, phase = draw.uniform(0.03, 0.08, (n, 1)), draw.uniform(0, 1, (n, 1))
    turn = (pitch * t + phase + (kind == 3)[:, None] * t**2 * 2e-4) % 1
    sine, square, saw = np.sin(2 * np.pi * turn), np.sign(turn - 0.5), 2 * turn - 1
    signal = np.select([(kind == 1)[:, None], (kind == 2)[:, None]], [square, saw], sine)
    return (signal + 0.5 * draw.standard_normal(signal.shape)).astype(np.float32), kind


def features(conv, norm, pool, widths=(16, 32, 32)):
    """Three convolutions, halved after the first two."""
    layers, before = [], 1
    for place, width in enumerate(widths):
        layers += [conv(before, width, 3, padding=1), norm(width), nn.ReLU(), *([pool(2)] if place < 2 else [])]
        before = width
    return nn.Sequential(*layers, nn.Flatten())


def regressor():
    """The numbers of `blobs`."""
    return nn.Sequential(*features(nn.Conv2d, nn.BatchNorm2d, nn.MaxPool2d), nn.Linear(32 * 9, 3))


class TwoHeads(nn.Module):
    """The digit, and its quarters."""

    def __init__(self):
        super().__init__()
        self.body = features(nn.Conv2d, nn.BatchNorm2d, nn.MaxPool2d)
        self.digit, self.quarter = nn.Linear(128, 10), nn.Linear(128, 4)

    def forward(self, x):  # noqa: D102
        x = self.body(x)
        return self.digit(x), self.quarter(x)


def denoiser():
    """An image for an image."""
    middle = [layer for _ in range(2) for layer in (nn.Conv2d(24, 24, 3, padding=1), nn.ReLU())]
    return nn.Sequential(nn.Conv2d(1, 24, 3, padding=1), nn.ReLU(), *middle, nn.Conv2d(24, 1, 3, padding=1))


def listener():
    """The kind of a signal."""
    return nn.Sequential(*features(nn.Conv1d, nn.BatchNorm1d, nn.MaxPool1d), nn.Linear(32 * 32, 4))


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for name, make in (("regression", blobs), ("heads", turned_digits), ("image", noisy_digits), ("signals", waves)):
        inputs, targets = make(np.random.default_rng(0))
        np.savez(folder / f"{name}.npz", train=inputs, train_labels=targets)
