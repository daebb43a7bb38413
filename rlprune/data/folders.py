"""Class-per-folder images, ImageNet among them: `train/CLASS/*.jpg`, `val/CLASS/*.jpg`."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from rlprune.data import samples
from rlprune.data.arrays import ArraySource
from rlprune.data.cutting import Cut, Pool, assemble, thinned
from rlprune.data.images import common_shape, decode_all, image_files, open_image, resize_and_crop, to_array
from rlprune.data.normalisation import Normalisation
from rlprune.data.samples import Sample, SampleSource
from rlprune.data.splits import DataSplits, Source
from rlprune.errors import UserError
from rlprune.tasks.base import Batch

DEFAULT_SIDE = 224
NATIVE_LIMIT = 128  # images that all have one size keep it up to here
POOL_OF = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test",
           "testing": "test"}  # fmt: skip
"""Names that the pools of a data set go by, the usual one first."""


def pool_folders(root: Path) -> dict[str, Path]:
    """The train, val and test folders under a root, by their usual names; empty if there is no train folder."""
    found: dict[str, Path] = {}
    for name, pool in POOL_OF.items():
        if pool not in found and (root / name).is_dir():
            found[pool] = root / name
    return found if "train" in found else {}


@dataclass(frozen=True)
class LabelReader:
    """Image files with a label each.

    Attributes:
        paths: The files.
        labels: (n,) class indices.
        shape: (channels, height, width) to bring them to.
    """

    paths: Sequence[Path]
    labels: np.ndarray
    shape: tuple[int, int, int]
    moves = True  # training cuts elsewhere (random resized crop), so it needs the whole image

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, index: int, generator: np.random.Generator | None) -> Sample:
        """The image, uint8 (C, H, W), cut at random for a generator, and its label."""
        channels, height, width = self.shape
        image = open_image(self.paths[index])
        if generator is None:
            return torch.from_numpy(to_array(resize_and_crop(image, height, width), channels)), self.labels[index]
        from torchvision.transforms import v2

        change = v2.Compose([v2.RandomResizedCrop((height, width), antialias=True), v2.RandomHorizontalFlip()])
        with torch.random.fork_rng(devices=[]):  # transforms draw from the global generator: seed it for this image
            torch.manual_seed(int(generator.integers(2**63)))
            return torch.from_numpy(to_array(change(image), channels)), self.labels[index]

    def nbytes(self) -> int:
        """Of the image."""
        return int(np.prod(self.shape))


class FileSource:
    """Classification images in files, decoded when they are first asked for.

    A pool that fits into a gigabyte is kept decoded and augmented in batches; a larger one streams through worker
    processes, and is augmented image by image (random resized crop and mirroring).
    """

    def __init__(self, name: str, reader: LabelReader, normalisation: Normalisation) -> None:
        self.name, self.reader, self.normalisation = name, reader, normalisation
        self._labels = torch.from_numpy(reader.labels.astype(np.int64))
        self._streamed = SampleSource(name, reader, self._collate, None)
        self._decoded: np.ndarray | None = None
        self._present = np.zeros(len(reader), dtype=bool)
        self._source: ArraySource | None = None

    def __len__(self) -> int:
        return len(self.reader)

    def stream(self, chunks: Sequence[np.ndarray], augment: int | None, device: torch.device) -> Iterator[Batch]:
        """Batches of normalised images and labels."""
        if not self._fits(len(self)):
            return self._streamed.stream(chunks, augment, device)
        kept = self._arrays(np.concatenate(chunks) if chunks else np.empty(0, dtype=np.int64))
        return kept.stream(chunks, augment, device)

    def hold(self, positions: np.ndarray, device: torch.device) -> Source | None:
        """These images decoded once, if they fit into a gigabyte."""
        if not self._fits(len(positions)):
            return None
        if self._fits(len(self)):
            return self._arrays(positions).hold(positions, device)
        images = decode_all([self.reader.paths[i] for i in positions], *self.reader.shape)
        return ArraySource(self.name, torch.from_numpy(images), self._labels[positions], self.normalisation)

    def _collate(self, samples: Sequence[Sample], device: torch.device) -> Batch:
        images = torch.stack([image for image, _ in samples]).to(device, non_blocking=True)
        return self.normalisation(images), torch.tensor([int(label) for _, label in samples], device=device)

    def _fits(self, count: int) -> bool:
        return count * self.reader.nbytes() <= samples.MEMORY_LIMIT

    def _arrays(self, positions: np.ndarray) -> ArraySource:
        """The pool as arrays, in which at least the images at `positions` are decoded."""
        if self._decoded is None:
            self._decoded = np.zeros((len(self), *self.reader.shape), dtype=np.uint8)
        missing = np.unique(positions[~self._present[positions]])
        if len(missing) or self._source is None:  # made anew after decoding: its copies on devices would be stale
            self._decoded[missing] = decode_all([self.reader.paths[i] for i in missing], *self.reader.shape)
            self._present[missing] = True
            images, colour = torch.from_numpy(self._decoded), self.reader.shape[0] == 3
            self._source = ArraySource(self.name, images, self._labels, self.normalisation, mirror=colour)
        return self._source


def is_class_folder(root: Path) -> bool:
    """Whether a folder, or its train folder, holds folders with images in them."""
    base = pool_folders(root).get("train", root)
    return any(next(iter(image_files(entry, recursive=True)), None) for entry in class_folders(base))


def load_folder(root: Path, cut: Cut) -> DataSplits:
    """A class-per-folder data set, with train, val and test folders, some of them, or none.

    Images that all have one size of at most 128 pixels keep it; others are resized and cropped to 224x224, or to
    the size asked for. A folder of grey images gives one channel.

    Raises:
        UserError: There is no class folder or no image, or a pool has a class the training folder has not.
    """
    folders = pool_folders(root) or {"train": root}
    classes = ordered_classes(folders["train"], cut)
    found = {pool: _scan(folder, classes) for pool, folder in folders.items()}
    shape = common_shape([path for paths, _ in found.values() for path in paths], cut, NATIVE_LIMIT, DEFAULT_SIDE)
    return splits_from_files(str(root), found, classes, shape, cut)


def splits_from_files(
    name: str,
    found: Mapping[str, tuple[list[Path], np.ndarray]],
    classes: tuple[str, ...],
    shape: tuple[int, int, int],
    cut: Cut,
) -> DataSplits:
    """Cut image files with labels into roles and wrap them up.

    Args:
        name: Specification of the data.
        found: Files and class indices by pool.
        classes: Class names.
        shape: (channels, height, width) to bring images to.
        cut: How to cut.
    """
    pools = {pool: Pool(pool, len(paths), labels, hash_files(paths)) for pool, (paths, labels) in found.items()}
    train = found["train"][0]
    return assemble(
        name,
        "classification",
        classes,
        shape,
        pools,
        cut,
        lambda pool, normalisation: FileSource(pool, LabelReader(*found[pool], shape), normalisation),
        lambda positions: decode_all([train[i] for i in thinned(positions, 1000)], *shape),
    )


def class_folders(folder: Path) -> list[Path]:
    """The folders in a folder, one for every class, sorted by name."""
    return sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def ordered_classes(folder: Path, cut: Cut) -> tuple[str, ...]:
    """Names of the class folders, in the order that was asked for; raises UserError if it is one of others."""
    found = tuple(entry.name for entry in class_folders(folder))
    if not found:
        raise UserError(f"{folder} holds no folder; expected one folder of images for every class")
    if len(found) == 1 and cut.classes is None:
        raise UserError(
            f"{folder} holds one folder, {found[0]!r}, and so one class; give the folder that has one for every class"
        )
    if cut.classes is not None and not set(found) <= set(cut.classes):
        other = next(name for name in found if name not in cut.classes)
        raise UserError(f"{folder / other} is a class that dataset.yml does not list: {', '.join(cut.classes[:10])}")
    return cut.classes or found


def label_of(entry: Path, classes: tuple[str, ...]) -> int:
    """Which class a folder is; raises UserError for one that the training folder has not."""
    if entry.name not in classes:
        raise UserError(f"{entry} is a class that the training folder has not; it has {', '.join(classes[:10])}")
    return classes.index(entry.name)


def _scan(folder: Path, classes: tuple[str, ...]) -> tuple[list[Path], np.ndarray]:
    paths: list[Path] = []
    labels: list[int] = []
    for entry in class_folders(folder):
        found = image_files(entry, recursive=True)
        paths += found
        labels += [label_of(entry, classes)] * len(found)
    if not paths:
        raise UserError(f"{folder} holds no image; expected one folder of images for every class")
    return paths, np.asarray(labels, dtype=np.int64)


def hash_files(paths: Sequence[Path]) -> str:
    """Short hash of the files' names and sizes."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(f"{path.parent.name}/{path.name}:{path.stat().st_size}\n".encode())
    return digest.hexdigest()[:16]
