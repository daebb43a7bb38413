"""torchvision's classification sets, downloaded on first use."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from rlprune.data.arrays import Images, splits_from_arrays
from rlprune.data.cutting import Cut
from rlprune.data.folders import load_folder, pool_folders
from rlprune.data.splits import DataSplits
from rlprune.errors import UserError, first_line
from rlprune.files import cache_folder
from rlprune.registry import Registry

Loader = Callable[[Path, Cut], DataSplits]
TORCHVISION_SETS: Registry[Loader] = Registry("torchvision data set")


def default_root() -> Path:
    """Where downloads go: $RLPRUNE_CACHE/data, or ~/.cache/rlprune/data."""
    return cache_folder() / "data"


def load_torchvision(name: str, cut: Cut, root: Path | None) -> DataSplits:
    """Load `torchvision:NAME`, downloading where the set's terms allow it."""
    return TORCHVISION_SETS.get(name)(root or default_root(), cut)


def _array_set(name: str) -> None:
    @TORCHVISION_SETS.register(name)
    def load(root: Path, cut: Cut) -> DataSplits:
        train, classes = _fetch(name, root, train=True)
        test, _ = _fetch(name, root, train=False)
        return splits_from_arrays(f"torchvision:{name}", {"train": train, "test": test}, classes, cut)


for _name in ("MNIST", "FashionMNIST", "KMNIST", "CIFAR10", "CIFAR100"):
    _array_set(_name)


@TORCHVISION_SETS.register("ImageNet")
def _imagenet(root: Path, cut: Cut) -> DataSplits:
    if "val" not in pool_folders(root):
        raise UserError(
            f"no ImageNet in {root}; it cannot be downloaded freely: give --root a folder with train/ and val/, "
            "each with a folder for every class"
        )
    return load_folder(root, cut)


def _fetch(name: str, root: Path, *, train: bool) -> tuple[Images, tuple[str, ...]]:
    from torchvision import datasets

    factory: Any = getattr(datasets, name)
    try:
        dataset = factory(str(root), train=train, download=True)
    except (RuntimeError, OSError) as error:
        remedy = f"put torchvision's files into {root}, or choose --root"
        raise UserError(f"cannot get {name} ({first_line(error, 120)}); {remedy}") from None
    images, labels = np.asarray(dataset.data), np.asarray(dataset.targets, dtype=np.int64)
    images = images[:, None] if images.ndim == 3 else images.transpose(0, 3, 1, 2)
    return Images(np.ascontiguousarray(images), labels), tuple(map(str, dataset.classes))
