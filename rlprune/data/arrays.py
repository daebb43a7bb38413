"""Images held in memory as arrays."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from rlprune.data.augmentation import shift_and_mirror
from rlprune.data.cutting import Cut, Pool, assemble, hash_arrays
from rlprune.data.normalisation import Normalisation
from rlprune.data.splits import DataSplits, Source
from rlprune.seeding import torch_generator
from rlprune.tasks.base import Batch

HOLD_LIMIT = 512 * 2**20  # bytes of float32 images kept normalised per split


class ArraySource:
    """Images, or examples of another rank, as one tensor, normalised when they are asked for.

    Args:
        name: Name of the pool.
        images: (N, C, H, W), uint8 or float32.
        labels: (N,) int64.
        normalisation: None for images that are normalised already.
        mirror: Whether a mirror image is as good as the image.
        moves: Whether a moved image is as good as the image.
    """

    def __init__(
        self,
        name: str,
        images: torch.Tensor,
        labels: torch.Tensor,
        normalisation: Normalisation | None,
        *,
        mirror: bool = False,
        moves: bool = True,
    ) -> None:
        self.name = name
        self.images = images
        self.labels = labels
        self.normalisation = normalisation
        self.mirror, self.moves = mirror, moves
        self._copies: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}

    def __len__(self) -> int:
        return len(self.labels)

    def stream(self, chunks: Sequence[np.ndarray], augment: int | None, device: torch.device) -> Iterator[Batch]:
        """Batches of normalised images and labels; augmentation shifts by up to an eighth of the side."""
        images, labels = self._on(device)
        generator = torch_generator(augment) if augment is not None and self.moves else None
        for chunk in chunks:
            contiguous = len(chunk) > 0 and chunk[-1] - chunk[0] == len(chunk) - 1 and bool(np.all(np.diff(chunk) == 1))
            if contiguous:
                batch, targets = images[chunk[0] : chunk[-1] + 1], labels[chunk[0] : chunk[-1] + 1]
            else:
                index = torch.from_numpy(chunk).to(device)
                batch, targets = images[index], labels[index]
            if generator is not None:
                padding = max(1, min(images.shape[2:]) // 8)
                batch = shift_and_mirror(batch, generator, padding=padding, mirror=self.mirror)
            yield (batch if self.normalisation is None else self.normalisation(batch)), targets

    def hold(self, positions: np.ndarray, device: torch.device) -> Source | None:
        """These images normalised once, if float32 copies of them take no more than half a gigabyte."""
        if 4 * self.images[0].numel() * len(positions) > HOLD_LIMIT:
            return None
        index = torch.from_numpy(positions)
        images = self.images[index]
        if self.normalisation is not None:
            images = self.normalisation(images)
        return ArraySource(self.name, images.to(device), self.labels[index].to(device), None)

    def _on(self, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        if self.images.device == device or device.type == "cpu":
            return self.images, self.labels
        key = str(device)
        if key not in self._copies:
            self._copies[key] = self.images.to(device), self.labels.to(device)
        return self._copies[key]


@dataclass(frozen=True, eq=False)
class Images:
    """One pool as arrays: (N, C, ...) uint8 or float32; labels (N,) int64, or targets of any shape, float32."""

    images: np.ndarray
    labels: np.ndarray


def splits_from_arrays(
    name: str, pools: Mapping[str, Images], classes: tuple[str, ...], cut: Cut, task: str = "classification"
) -> DataSplits:
    """Cut arrays of the pools train, and val and test where there are such, into roles, and wrap them up.

    The normalisation is chosen on the train role.
    """
    arrays, train = dict(pools), pools["train"]
    labelled, shape = train.labels.dtype == np.int64 and train.labels.ndim == 1, tuple(map(int, train.images.shape[1:]))

    def source(key: str, normalisation: Normalisation) -> Source:
        images = torch.from_numpy(np.ascontiguousarray(arrays[key].images))
        # Boxes, maps and signals would have to move with the image: such examples are not changed
        labels, moves = torch.from_numpy(arrays[key].labels), labelled and len(shape) == 3
        return ArraySource(key, images, labels, normalisation, mirror=shape[0] == 3, moves=moves)

    whole = {
        key: Pool(key, len(one.labels), one.labels if labelled else None, hash_arrays(one.images, one.labels))
        for key, one in arrays.items()
    }
    scale = 255.0 if train.images.dtype == np.uint8 else 1.0
    return assemble(name, task, classes, shape, whole, cut, source, train.images.__getitem__, scale=scale)
