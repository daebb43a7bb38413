"""Segmentation folders: `{train,val,test}/images` with `/masks`, as PNGs of class indices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rlprune.data.cutting import Cut, Pool, assemble, thinned
from rlprune.data.folders import hash_files, pool_folders
from rlprune.data.images import common_shape, image_files
from rlprune.data.masks import MaskCollate, MaskReader, mask_augment, open_mask
from rlprune.data.normalisation import Normalisation
from rlprune.data.samples import Augment, Reader, SampleSource
from rlprune.data.splits import DataSplits, Source
from rlprune.errors import UserError
from rlprune.tasks.segmentation import IGNORE

NATIVE_LIMIT = 640  # images that all have one size keep it up to here
DEFAULT_SIDE = 256

Pairs = Sequence[tuple[Path, Path]]


def is_mask_folder(root: Path) -> bool:
    """Whether a folder has `images` and `masks`, itself or under `train`."""
    base = pool_folders(root).get("train", root)
    return (base / "images").is_dir() and (base / "masks").is_dir()


def load_mask_folder(root: Path, cut: Cut) -> DataSplits:
    """A segmentation data set in folders; `classes.txt` beside them names a class a line.

    Without `classes.txt`, all masks are looked through for the highest class.

    Raises:
        UserError: An image has no mask, or there are none; later, on reading: a mask's size or values are wrong.
    """
    folders = pool_folders(root) or {"train": root}
    pools = {name: _pairs(folder) for name, folder in folders.items()}
    classes = _class_names(root, pools)
    return splits_from_masks(str(root), pools, classes, cut)


def splits_from_masks(
    name: str, found: Mapping[str, Pairs], classes: tuple[str, ...], cut: Cut, table: Mapping[int, int] | None = None
) -> DataSplits:
    """Cut pairs of image and mask into roles and wrap them up.

    Args:
        name: Specification of the data.
        found: By name ("train", "val", "test").
        classes: Class names.
        cut: How to cut.
        table: Value in the mask files -> class.
    """
    images = [image for pairs in found.values() for image, _ in pairs]
    shape = common_shape(images, cut, NATIVE_LIMIT, DEFAULT_SIDE)
    readers = {key: MaskReader(pairs, len(classes), shape, table) for key, pairs in found.items()}
    return assemble_masks(name, classes, shape, pools_of(found), cut, readers, mask_augment(shape))


def pools_of(found: Mapping[str, Pairs]) -> dict[str, Pool]:
    """Pairs of files as pools, which are cut without regard to what is in them."""
    files = {key: [file for pair in pairs for file in pair] for key, pairs in found.items()}
    return {key: Pool(key, len(pairs), None, hash_files(files[key])) for key, pairs in found.items()}


def assemble_masks(
    name: str,
    classes: tuple[str, ...],
    shape: tuple[int, int, int],
    pools: Mapping[str, Pool],
    cut: Cut,
    readers: Mapping[str, Reader],
    augment: Augment,
    **more: Any,
) -> DataSplits:
    """`assemble` for images with masks, by pool read by `readers` and changed by `augment`."""

    def source(key: str, normalisation: Normalisation) -> Source:
        return SampleSource(key, readers[key], MaskCollate(normalisation), augment)

    def sample(positions: np.ndarray) -> np.ndarray:
        return np.stack([readers["train"].read(int(i), None)[0].numpy() for i in thinned(positions, 200)])

    return assemble(name, "segmentation", classes, shape, pools, cut, source, sample, **more)


def _pairs(folder: Path) -> list[tuple[Path, Path]]:
    masks_folder, images_folder = folder / "masks", folder / "images"
    if not (masks_folder.is_dir() and images_folder.is_dir()):
        raise UserError(f"{folder} must hold the folders images and masks")
    masks = {path.stem: path for path in image_files(masks_folder)}
    pairs = []
    for image in image_files(images_folder):
        if image.stem not in masks:
            raise UserError(f"image {image} has no mask; expected {masks_folder / (image.stem + '.png')}")
        pairs.append((image, masks[image.stem]))
    if not pairs:
        raise UserError(f"{images_folder} holds no image; there must be at least one")
    return pairs


def _class_names(root: Path, pools: Mapping[str, Pairs]) -> tuple[str, ...]:
    file = root / "classes.txt"
    if file.is_file():
        names = tuple(line.strip() for line in file.read_text().splitlines() if line.strip())
        if len(names) < 2:
            raise UserError(f"{file} names {len(names)} classes; there must be at least two, one a line")
        return names
    highest = 0
    for pairs in pools.values():
        for _, path in pairs:
            values = np.unique(np.asarray(open_mask(path)))
            highest = max(highest, int(values[values != IGNORE].max(initial=0)))
    if highest == 0:
        raise UserError(
            f"the masks of {root} hold no class but 0 (and {IGNORE}, which is ignored); "
            "number the classes 0, 1, ... in the masks"
        )
    return tuple(map(str, range(highest + 1)))
