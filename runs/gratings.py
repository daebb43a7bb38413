"""Images to try things on that need no download: noisy stripes of four directions."""

import torch
from torch.utils.data import TensorDataset

CLASSES = 4


def gratings(n: int, seed: int) -> TensorDataset:
    """Noisy stripes, (n, 3, 32, 32), and which of the four directions they have."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % CLASSES
    angle = labels[:, None, None] * torch.pi / CLASSES + 0.2 * torch.randn(n, 1, 1, generator=generator)
    y, x = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")
    phase = 6.28 * torch.rand(n, 1, 1, generator=generator)
    waves = torch.sin((x * angle.cos() + y * angle.sin()) * 0.8 + phase)[:, None]
    return TensorDataset(waves + torch.randn(n, 3, 32, 32, generator=generator), labels)
