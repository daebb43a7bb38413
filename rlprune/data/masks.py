"""Segmentation samples: images with masks of class indices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from rlprune.data.images import cover, open_image, to_array
from rlprune.data.normalisation import Normalisation
from rlprune.data.samples import Augment, Sample
from rlprune.errors import UserError
from rlprune.tasks.base import Batch
from rlprune.tasks.segmentation import IGNORE

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True)
class MaskReader:
    """Pairs of an image file and a mask file.

    Attributes:
        pairs: The files.
        classes: Number of classes; a mask holds values below it, or 255 for pixels that do not count.
        shape: (channels, height, width) to bring images and masks to.
        table: Value in the file -> class, for sets with numbers of their own; None takes values as they are.
    """

    pairs: Sequence[tuple[Path, Path]]
    classes: int
    shape: tuple[int, int, int]
    table: Mapping[int, int] | None = None
    moves = False

    def __len__(self) -> int:
        return len(self.pairs)

    def read(self, index: int, generator: np.random.Generator | None) -> Sample:
        """The image, uint8 (C, H, W), and its mask, uint8 (H, W)."""
        from PIL import Image

        image_path, mask_path = self.pairs[index]
        image, mask = open_image(image_path), open_mask(mask_path)
        if image.size != mask.size:
            raise UserError(
                f"mask {mask_path} is {mask.width}x{mask.height} and image {image_path.name} is "
                f"{image.width}x{image.height}; they must be of one size"
            )
        channels, height, width = self.shape
        image = cover(image, height, width, Image.Resampling.BILINEAR)
        values = np.array(cover(mask, height, width, Image.Resampling.NEAREST))
        return torch.from_numpy(to_array(image, channels)), torch.from_numpy(self._classes(values, mask_path))

    def nbytes(self) -> int:
        """Image and mask."""
        channels, height, width = self.shape
        return (channels + 1) * height * width

    def _classes(self, values: np.ndarray, path: Path) -> np.ndarray:
        if self.table is not None:
            lookup = np.full(256, IGNORE, dtype=np.uint8)
            for value, index in self.table.items():
                lookup[value] = index
            return np.asarray(lookup[values], dtype=np.uint8)
        check_values(values, self.classes, path)
        return values


def open_mask(path: Path) -> Image.Image:
    """A mask as an 8-bit image of one channel; raises UserError if it has colours instead of class indices."""
    from PIL import Image

    mask = open_image(path)
    if mask.mode in ("1", "P"):  # a palette is for people; the index is the class
        return Image.fromarray(np.asarray(mask, dtype=np.uint8))
    if mask.mode != "L":
        raise UserError(f"mask {path} is of mode {mask.mode}; it must be a PNG of class indices, 8 bits, one channel")
    return mask


def check_values(values: np.ndarray, classes: int, path: Path) -> None:
    """Raise UserError naming the file and the value if a mask holds a value outside the classes."""
    present = np.flatnonzero(np.bincount(values.ravel(), minlength=256))
    wrong = [int(value) for value in present if value >= classes and value != IGNORE]
    if wrong:
        raise UserError(
            f"mask {path} holds {wrong[0]}; values must lie in [0, {classes - 1}] for the {classes} classes, "
            f"or be {IGNORE} for pixels to ignore"
        )


@dataclass(frozen=True)
class MaskCollate:
    """Batches of normalised images, float32 (N, C, H, W), and masks, int64 (N, H, W)."""

    normalisation: Normalisation

    def __call__(self, samples: Sequence[Sample], device: torch.device) -> Batch:
        """Stack, move, normalise."""
        images = torch.stack([image for image, _ in samples]).to(device)
        masks = torch.stack([mask for _, mask in samples]).to(device)
        return self.normalisation(images), masks.long()


def mask_augment(shape: tuple[int, int, int], *, overhead: bool = False) -> Augment:
    """Random resized crops (half to all of the area) and mirroring of image and mask together.

    Args:
        shape: (channels, height, width) to come out.
        overhead: Images seen from above may be turned upside down as well.
    """
    from torchvision import tv_tensors
    from torchvision.transforms import v2

    steps = [v2.RandomResizedCrop(shape[1:], scale=(0.5, 1.0), antialias=True), v2.RandomHorizontalFlip()]
    if overhead:
        steps.append(v2.RandomVerticalFlip())
    change = v2.Compose(steps)

    def augment(sample: Sample) -> Sample:
        image, mask = change(tv_tensors.Image(sample[0]), tv_tensors.Mask(sample[1]))
        return image.as_subclass(torch.Tensor), mask.as_subclass(torch.Tensor)

    return augment
