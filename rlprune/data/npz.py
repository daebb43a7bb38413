"""`.npz` files with train, train_labels, test and test_labels."""

from __future__ import annotations

import zipfile
from functools import lru_cache
from pathlib import Path

import numpy as np

from rlprune.data.arrays import Images, splits_from_arrays
from rlprune.data.cutting import Cut
from rlprune.data.splits import DataSplits
from rlprune.errors import UserError, first_line
from rlprune.tasks.segmentation import IGNORE

CLASSES = ("classification", "embedding")  # tasks whose targets are classes
LACKING = ("regression", "multilabel")  # those that leave out targets that are NaN
MASKS = "segmentation"  # the one whose targets are a class for every place
MOST_CLASSES = 100_000  # more are identities, not labels
_KEYS = ("train", "train_labels", "test", "test_labels")


def load_npz(path: Path, cut: Cut, task: str = "classification") -> DataSplits:
    """Inputs, uint8 or floating point, with targets; both of any rank.

    Inputs: images (N, H, W), (N, H, W, C) or (N, C, H, W) with C of 1 or 3; signals (N, L) of floating point, or
    (N, C, L) where a string `layout` in the file says NCL; volumes (N, C, D, H, W). Classification has whole-number
    labels (N,), segmentation has masks, and an array of strings `classes` may name the classes. Other tasks take their
    targets as they are, images in [0, 1] where they are uint8. `test` and `test_labels` may be missing; a fifth of the
    training examples is put aside then.

    Raises:
        UserError: The file is missing, damaged, or its arrays are not of that form.
    """
    try:
        seen = path.stat()
    except OSError:
        raise _no_file(path) from None
    return _load(path, (seen.st_mtime_ns, seen.st_size), cut, task)


def _no_file(path: Path) -> UserError:
    return UserError(f"no such file: {path}; give an .npz file with the arrays {', '.join(_KEYS)}")


@lru_cache(maxsize=1)
def _load(path: Path, version: tuple[int, int], cut: Cut, task: str) -> DataSplits:
    """The roles of a version of the file, which a population of networks shares: nothing changes them."""
    arrays = _read(path)
    for key in ("train", "train_labels"):
        if key not in arrays:
            listed = ", ".join(sorted(arrays)) or "no array at all"
            raise UserError(f"{path} has no array {key!r}; it has {listed}, and needs {', '.join(_KEYS)}")
    if ("test" in arrays) != ("test_labels" in arrays):
        raise UserError(f"{path} has only one of 'test' and 'test_labels'; give both or neither")
    train = _images(path, arrays, "train", task)
    test = _images(path, arrays, "test", task) if "test" in arrays else None
    if test is not None and test.images.shape[1:] != train.images.shape[1:]:
        raise UserError(
            f"{path}: train images are {train.images.shape[1:]} and test images {test.images.shape[1:]} "
            "(channels, height, width); they must be of one shape"
        )
    if test is not None and test.images.dtype != train.images.dtype:
        raise UserError(f"{path}: train is {train.images.dtype} and test {test.images.dtype}; give both as uint8")
    if test is not None and test.labels.shape[1:] != train.labels.shape[1:]:
        raise UserError(f"{path}: targets are {train.labels.shape[1:]} and {test.labels.shape[1:]}; give one shape")
    pools = {"train": train} if test is None else {"train": train, "test": test}
    if name_of(task) in (*CLASSES, MASKS):
        whole = {} if train.labels.ndim == 1 else {"task": task}
        return splits_from_arrays(str(path), pools, _classes(path, arrays, train, test), cut, **whole)
    outputs = train.labels.shape[1] if train.labels.ndim > 1 else 1
    return splits_from_arrays(str(path), pools, tuple(map(str, range(outputs))), cut, task)


def _read(path: Path) -> dict[str, np.ndarray]:
    if not path.is_file():
        raise _no_file(path)
    try:
        with path.open("rb") as file:
            if not zipfile.is_zipfile(path) and file.read(6) != b"\x93NUMPY":
                raise UserError(f"{path} is no .npz file, or is damaged; write it by numpy.savez")
            file.seek(0)
            archive = np.load(file, allow_pickle=False)
            if isinstance(archive, np.ndarray):
                raise UserError(f"{path} is a single array; expected an .npz file with {', '.join(_KEYS)}")
            wanted = (*_KEYS, "classes", "layout")
            return {key: archive[key] if key in wanted else np.empty(0) for key in archive.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        if isinstance(error, UserError):
            raise
        reason = first_line(error, 120)
        raise UserError(f"cannot read {path} ({reason}); it is damaged or not an .npz file of plain arrays") from None


def _images(path: Path, arrays: dict[str, np.ndarray], key: str, task: str) -> Images:
    images, labels = arrays[key], arrays[f"{key}_labels"]
    signals = "layout" in arrays and str(arrays["layout"]) == "NCL"
    if (images.ndim == 2 and np.issubdtype(images.dtype, np.floating)) or (images.ndim == 3 and not signals):
        images = images[:, None]
    elif images.ndim == 4 and images.shape[3] in (1, 3):
        images = images.transpose(0, 3, 1, 2)
    elif (
        images.ndim != 5 and not (images.ndim == 3 and signals) and (images.ndim != 4 or images.shape[1] not in (1, 3))
    ):
        raise UserError(
            f"{path}: {key!r} has shape {arrays[key].shape}; expected (images, height, width) or "
            "(images, height, width, channels) with 1 or 3 channels"
        )
    if len(images) == 0:
        raise UserError(f"{path}: {key!r} is empty; there must be at least one image")
    if np.issubdtype(images.dtype, np.floating):
        images = images.astype(np.float32)
        if not np.isfinite(images).all():
            raise UserError(f"{path}: {key!r} holds NaN or infinity; every pixel must be finite")
    elif images.dtype != np.uint8:
        raise UserError(f"{path}: {key!r} is {images.dtype}; images must be uint8 in [0, 255] or floating point")
    if name_of(task) not in CLASSES:
        return Images(np.ascontiguousarray(images), _targets(path, labels, f"{key}_labels", len(images), task))
    if labels.ndim != 1 or len(labels) != len(images) or not np.issubdtype(labels.dtype, np.integer):
        raise UserError(
            f"{path}: '{key}_labels' is {labels.dtype} of shape {labels.shape}; "
            f"expected {len(images)} whole numbers, one for every image; other targets need a task, such as regression"
        )
    if labels.min() < 0:
        raise UserError(f"{path}: '{key}_labels' holds {labels.min()}; labels must be 0 or more")
    return Images(np.ascontiguousarray(images), labels.astype(np.int64))


def _targets(path: Path, targets: np.ndarray, key: str, count: int, task: str) -> np.ndarray:
    """Targets of any shape as float32; images, the channels first, in [0, 1]; masks as int64."""
    if len(targets.shape) == 0 or len(targets) != count or not np.issubdtype(targets.dtype, np.number):
        raise UserError(f"{path}: {key!r} is {targets.dtype} of shape {targets.shape}; expected {count} targets")
    if name_of(task) == MASKS:
        if targets.ndim < 2 or not np.issubdtype(targets.dtype, np.integer) or targets.min() < 0:
            raise UserError(
                f"{path}: {key!r} is {targets.dtype} of shape {targets.shape}; segmentation needs the class of every "
                f"pixel, whole numbers from 0 on, and {IGNORE} where none counts"
            )
        return targets.astype(np.int64)
    if targets.ndim == 4 and targets.shape[3] in (1, 3):
        targets = targets.transpose(0, 3, 1, 2)
    found = targets.astype(np.float32) / (255 if targets.dtype == np.uint8 and targets.ndim == 4 else 1)
    check_targets(found, f"{path}: {key!r}", task)
    return np.ascontiguousarray(found)


def name_of(task: str) -> str:
    """A task without its options."""
    return task.partition(":")[0]


def check_targets(targets: np.ndarray, where: str, task: str) -> None:
    """Raise UserError for targets that are infinite, or NaN in a task that knows of no missing ones."""
    lacking = np.isnan(targets)
    if np.isinf(targets).any() or lacking.all() or (lacking.any() and name_of(task) not in LACKING):
        raise UserError(f"{where} holds NaN or infinity; every target must be finite")


def _classes(path: Path, arrays: dict[str, np.ndarray], train: Images, test: Images | None) -> tuple[str, ...]:
    highest = _highest(train)
    if "classes" in arrays:
        names = tuple(map(str, arrays["classes"].tolist()))
        if highest >= len(names):
            raise UserError(f"{path}: label {highest} is outside the {len(names)} classes named; labels start at 0")
    else:
        if highest >= MOST_CLASSES:
            raise UserError(f"{path}: 'train_labels' holds {highest}; labels are numbers of classes, 0, 1, 2 ...")
        names = tuple(map(str, range(highest + 1)))
    if test is not None and _highest(test) >= len(names):
        raise UserError(
            f"{path}: 'test_labels' holds {_highest(test)}, outside the {len(names)} classes of the training "
            "images; labels must lie in [0, classes)"
        )
    return names


def _highest(pool: Images) -> int:
    """The last class that occurs."""
    labels = pool.labels
    return int(labels.max() if labels.ndim == 1 else labels.max(where=labels != IGNORE, initial=0))
