"""Class-per-folder images, ImageNet among them: `train/CLASS/*.jpg`, `val/CLASS/*.jpg`."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from rlprune.data.arrays import ArraySource
from rlprune.data.cutting import Cut, Pool, assemble, cut_roles
from rlprune.data.images import decode_all, image_files, open_image, resize_and_crop, survey, to_array
from rlprune.data.normalisation import Normalisation, choose_normalisation
from rlprune.data.splits import DataSplits, Source
from rlprune.errors import UserError
from rlprune.seeding import derive
from rlprune.tasks.base import Batch

DEFAULT_SIDE = 224
NATIVE_LIMIT = 128  # images that all have one size keep it up to here
MEMORY_LIMIT = 2**30  # bytes of decoded images kept per pool
POOL_NAMES = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}


def pool_folders(root: Path) -> dict[str, Path]:
    """The train, val and test folders under a root, by their usual names; empty if there is no train folder."""
    found = {}
    for pool, names in POOL_NAMES.items():
        for name in names:
            if (root / name).is_dir():
                found[pool] = root / name
                break
    return found if "train" in found else {}


class FileSource:
    """Classification images in files, decoded when they are first asked for.

    A pool that fits into a gigabyte is kept decoded and augmented in batches; a larger one streams through a
    DataLoader, with worker processes, and is augmented image by image (random resized crop and mirroring).
    """

    def __init__(
        self,
        name: str,
        paths: Sequence[Path],
        labels: np.ndarray,
        shape: tuple[int, int, int],
        normalisation: Normalisation,
    ) -> None:
        self.name = name
        self.paths = list(paths)
        self.labels = torch.from_numpy(labels.astype(np.int64))
        self.shape = shape
        self.normalisation = normalisation
        self._decoded: np.ndarray | None = None
        self._present = np.zeros(len(self.paths), dtype=bool)
        self._source: ArraySource | None = None

    def __len__(self) -> int:
        return len(self.paths)

    def stream(self, chunks: Sequence[np.ndarray], augment: int | None, device: torch.device) -> Iterator[Batch]:
        """Batches of normalised images and labels."""
        if self._fits(len(self)):
            kept = self._arrays(np.concatenate(chunks) if chunks else np.empty(0, dtype=np.int64))
            yield from kept.stream(chunks, augment, device)
            return
        dataset = _Files(self.paths, self.shape, augment)
        workers = min(8, os.cpu_count() or 1)
        loader = DataLoader(
            dataset,
            batch_sampler=[chunk.tolist() for chunk in chunks],
            num_workers=workers,
            collate_fn=_stack,
            pin_memory=device.type == "cuda",
        )
        for chunk, images in zip(chunks, loader, strict=True):
            if isinstance(images, str):  # an exception from a worker would bring its traceback along
                raise UserError(images)
            placed = images.to(device, non_blocking=True)
            yield self.normalisation(placed), self.labels[torch.from_numpy(chunk)].to(device)

    def hold(self, positions: np.ndarray, device: torch.device) -> Source | None:
        """These images decoded once, if they fit into a gigabyte."""
        if not self._fits(len(positions)):
            return None
        if self._fits(len(self)):
            return self._arrays(positions).hold(positions, device)
        images = decode_all([self.paths[i] for i in positions], *self.shape)
        labels = self.labels[torch.from_numpy(positions)]
        return ArraySource(self.name, torch.from_numpy(images), labels, self.normalisation)

    def _fits(self, count: int) -> bool:
        return count * int(np.prod(self.shape)) <= MEMORY_LIMIT

    def _arrays(self, positions: np.ndarray) -> ArraySource:
        """The pool as arrays, in which at least the images at `positions` are decoded."""
        if self._decoded is None:
            self._decoded = np.zeros((len(self), *self.shape), dtype=np.uint8)
        missing = np.unique(positions[~self._present[positions]])
        if len(missing) or self._source is None:  # made anew after decoding: its copies on devices would be stale
            self._decoded[missing] = decode_all([self.paths[i] for i in missing], *self.shape)
            self._present[missing] = True
            images = torch.from_numpy(self._decoded)
            self._source = ArraySource(self.name, images, self.labels, self.normalisation, mirror=self.shape[0] == 3)
        return self._source


class _Files(Dataset[torch.Tensor | str]):
    """Decoded and, on request, augmented images; an error comes back as its message."""

    def __init__(self, paths: list[Path], shape: tuple[int, int, int], augment: int | None) -> None:
        self.paths, self.shape, self.augment = paths, shape, augment

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> torch.Tensor | str:
        channels, height, width = self.shape
        try:
            image = open_image(self.paths[index])
        except UserError as error:
            return str(error)
        if self.augment is None:
            return torch.from_numpy(to_array(resize_and_crop(image, height, width), channels))
        from torchvision.transforms import v2

        change = v2.Compose([v2.RandomResizedCrop((height, width), antialias=True), v2.RandomHorizontalFlip()])
        with torch.random.fork_rng(devices=[]):  # transforms draw from the global generator: seed it for this image
            torch.manual_seed(derive(self.augment, index))
            return torch.from_numpy(to_array(change(image), channels))


def _stack(images: list[torch.Tensor | str]) -> torch.Tensor | str:
    for image in images:
        if isinstance(image, str):
            return image
    return torch.stack([image for image in images if isinstance(image, torch.Tensor)])


def is_class_folder(root: Path) -> bool:
    """Whether a folder, or its train folder, holds folders with images in them."""
    base = pool_folders(root).get("train", root)
    return any(next(iter(image_files(entry, recursive=True)), None) for entry in _class_folders(base))


def load_folder(root: Path, cut: Cut, side: int | None = None) -> DataSplits:
    """A class-per-folder data set, with train, val and test folders, some of them, or none.

    Images that all have one size of at most 128 pixels keep it; others are resized and cropped to 224x224, or to
    `side`. A folder of grey images gives one channel.

    Raises:
        UserError: There is no class folder or no image, or a pool has a class the training folder has not.
    """
    folders = pool_folders(root) or {"train": root}
    classes = tuple(folder.name for folder in _class_folders(folders["train"]))
    if not classes:
        raise UserError(f"{folders['train']} holds no folder; expected one folder of images for every class")
    pools = {pool: _scan(folder, classes) for pool, folder in folders.items()}
    paths = [path for found, _ in pools.values() for path in found]
    sizes, grey = survey(paths)
    shape = _shape(sizes, grey, side)
    sized = {pool: Pool(pool, len(found), labels) for pool, (found, labels) in pools.items()}
    positions = cut_roles(cut, sized["train"], sized.get("test"), sized.get("val"))
    normalisation = _normalisation(pools["train"][0], positions["train"][1], shape)
    sources: dict[str, Source] = {
        pool: FileSource(pool, found, labels, shape, normalisation) for pool, (found, labels) in pools.items()
    }
    content = {pool: hash_files(found) for pool, (found, _) in pools.items()}
    details = {"normalisation": normalisation.to_json()}
    return assemble(str(root), "classification", classes, shape, sources, positions, cut, content, details)


def _class_folders(folder: Path) -> list[Path]:
    return sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _scan(folder: Path, classes: tuple[str, ...]) -> tuple[list[Path], np.ndarray]:
    paths: list[Path] = []
    labels: list[int] = []
    for entry in _class_folders(folder):
        if entry.name not in classes:
            raise UserError(f"{entry} is a class that the training folder has not; it has {', '.join(classes[:10])}")
        found = image_files(entry, recursive=True)
        paths += found
        labels += [classes.index(entry.name)] * len(found)
    if not paths:
        raise UserError(f"{folder} holds no image; expected one folder of images for every class")
    return paths, np.asarray(labels, dtype=np.int64)


def _shape(sizes: set[tuple[int, int]], grey: bool, side: int | None) -> tuple[int, int, int]:
    channels = 1 if grey else 3
    if side is not None:
        if side < 8:
            raise UserError(f"image size is {side}; it must be at least 8")
        return channels, side, side
    if len(sizes) == 1:
        height, width = next(iter(sizes))
        if max(height, width) <= NATIVE_LIMIT:
            return channels, height, width
    return channels, DEFAULT_SIDE, DEFAULT_SIDE


def _normalisation(paths: list[Path], train: np.ndarray, shape: tuple[int, int, int]) -> Normalisation:
    """By the common rule; grey images are measured on at most a thousand of the train role, evenly spaced."""
    if shape[0] == 3:
        return choose_normalisation(np.empty((0, 3, 1, 1), dtype=np.uint8), 255.0)
    sample = train[:: max(1, len(train) // 1000)]
    return choose_normalisation(decode_all([paths[i] for i in sample], *shape), 255.0)


def hash_files(paths: Sequence[Path]) -> str:
    """Short hash of the files' names and sizes."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(f"{path.parent.name}/{path.name}:{path.stat().st_size}\n".encode())
    return digest.hexdigest()[:16]
