"""Hugging Face `datasets` on disk, as `save_to_disk` writes them: a column of images and one of class labels."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from rlprune.data.arrays import Images, splits_from_arrays
from rlprune.data.cutting import Cut
from rlprune.data.folders import DEFAULT_SIDE, NATIVE_LIMIT, POOL_OF
from rlprune.data.images import resize_and_crop, to_array
from rlprune.data.splits import DataSplits
from rlprune.errors import UserError, needing

MEMORY = 2**33  # bytes of decoded images; these sets are held in memory


def is_hugging_face(path: Path) -> bool:
    """Whether `save_to_disk` wrote this folder: one set, or several by the names of their splits."""
    return (path / "dataset_dict.json").is_file() or (path / "dataset_info.json").is_file()


def load_hugging_face(path: Path, cut: Cut) -> DataSplits:
    """A set, or the splits `train`, `validation` and `test` of one, decoded into memory.

    Raises:
        UserError: The package `datasets` is not there, or the set has no column of images, or none of labels.
    """
    with needing(f"{path} is a Hugging Face data set, which needs 'datasets'", "hf"):
        from datasets import load_from_disk
    found: Any = load_from_disk(str(path))
    given = dict(found) if isinstance(found, dict) else {"train": found}
    pools = {POOL_OF[name]: split for name, split in given.items() if name in POOL_OF}
    if "train" not in pools:
        raise UserError(f"{path} has the splits {', '.join(given)}; one must be called train")
    images, labels = _columns(path, pools["train"].features)
    classes = cut.classes or tuple(getattr(pools["train"].features[labels], "names", ()))
    first = [pools["train"][i][images] for i in range(min(64, len(pools["train"])))]
    if not first or any(image is None for image in first):
        raise UserError(f"{path}: an image of the column {images!r} is missing")
    sizes, grey = {(one.height, one.width) for one in first}, all(one.mode in ("1", "L") for one in first)
    native = len(sizes) == 1 and max(next(iter(sizes))) <= NATIVE_LIMIT and cut.size is None
    side = cut.size or DEFAULT_SIDE
    shape = (cut.channels or (1 if grey else 3), *(next(iter(sizes)) if native else (side, side)))
    needed = sum(map(len, pools.values())) * int(np.prod(shape))
    if needed > MEMORY:
        raise UserError(
            f"{path} takes {needed / 2**30:.0f} GiB in memory, and at most 8 will do: give a smaller --size"
        )
    made = {pool: _decoded(path, split, images, labels, shape) for pool, split in pools.items()}
    most = 1 + max(int(part.labels.max(initial=0)) for part in made.values())
    return splits_from_arrays(str(path), made, classes or tuple(map(str, range(most))), cut)


def _columns(path: Path, features: Mapping[str, Any]) -> tuple[str, str]:
    """The column of images and that of labels."""
    kinds = {name: type(feature).__name__ for name, feature in features.items()}
    images = [name for name, kind in kinds.items() if kind == "Image"]
    labels = [name for name, kind in kinds.items() if kind == "ClassLabel"]
    labels = labels or [name for name in ("label", "labels") if name in kinds]
    if len(images) != 1 or len(labels) != 1:
        listed = ", ".join(f"{name} ({kind})" for name, kind in kinds.items())
        raise UserError(f"{path} has the columns {listed}; it must have one of Image and one of ClassLabel")
    return images[0], labels[0]


def _decoded(path: Path, split: Any, images: str, labels: str, shape: tuple[int, ...]) -> Images:
    channels, height, width = shape
    out = np.empty((len(split), *shape), dtype=np.uint8)
    for place, image in enumerate(split[images]):
        if image is None:
            raise UserError(f"{path}: image {place} of the column {images!r} is missing")
        out[place] = to_array(resize_and_crop(image, height, width), channels)
    found = np.asarray(list(split[labels]))
    if found.dtype.kind not in "iu" or (len(found) and found.min() < 0):
        raise UserError(f"{path}: the column {labels!r} must hold class indices >= 0 (cast_column(..., ClassLabel()))")
    return Images(out, found.astype(np.int64))
