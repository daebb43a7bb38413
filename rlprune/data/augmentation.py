"""Random shifts and mirror images of whole batches, on the device, from one generator."""

from __future__ import annotations

import torch
import torch.nn.functional as F


def shift_and_mirror(images: torch.Tensor, generator: torch.Generator, *, padding: int, mirror: bool) -> torch.Tensor:
    """Pad and crop back at a place of its own for every image, and mirror half of them.

    The standard augmentation of small images (He et al. 2016, section 4.2: padding 4 at 32 pixels), without a loop
    over images. The draws come from the CPU generator, so they are the same on every device.

    Args:
        images: (N, C, H, W), any dtype.
        generator: CPU generator.
        padding: Largest shift in pixels.
        mirror: Whether to mirror; wrong for characters and traffic signs.
    """
    count = len(images)
    offsets = torch.randint(0, 2 * padding + 1, (2, count), generator=generator).to(images.device)
    flips = torch.rand(count, generator=generator).lt(0.5).to(images.device)
    if padding:
        height, width = images.shape[2:]
        padded = F.pad(images, (padding,) * 4)
        windows = padded.unfold(2, height, 1).unfold(3, width, 1)  # a view: (N, C, 2p+1, 2p+1, H, W)
        images = windows[torch.arange(count, device=images.device), :, offsets[0], offsets[1]]
    if mirror:
        images = torch.where(flips.view(-1, 1, 1, 1), images.flip(3), images)
    return images
