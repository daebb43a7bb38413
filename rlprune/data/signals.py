"""Examples in `.npy` and `.wav` files: sounds, other signals, volumes, images of numbers; a folder for every class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from rlprune.data.arrays import Images, splits_from_arrays
from rlprune.data.cutting import Cut
from rlprune.data.folders import class_folders, label_of, ordered_classes, pool_folders
from rlprune.data.splits import DataSplits
from rlprune.errors import UserError, first_line

SUFFIXES = frozenset({".npy", ".wav"})


def signal_files(folder: Path) -> list[Path]:
    """The files of arrays under a folder, sorted by name; hidden ones are left out."""
    return sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and not p.name.startswith("."))


def is_signal_folder(root: Path) -> bool:
    """Whether a folder, or its train folder, holds folders with such files in them."""
    base = pool_folders(root).get("train", root)
    return any(signal_files(entry) for entry in class_folders(base))


def load_signal_folder(root: Path, cut: Cut) -> DataSplits:
    """A folder of files for every class, in train, val and test folders, some of them, or none.

    All are read into memory, and must have one shape; sounds of other lengths are cut, or filled up with silence, to
    `size` samples where that is given.

    Raises:
        UserError: There is no class, or a file is damaged or of another shape than the others.
    """
    folders = pool_folders(root) or {"train": root}
    classes = ordered_classes(folders["train"], cut)
    files: dict[str, list[tuple[Path, int]]] = {}
    for pool, folder in folders.items():
        pairs = [(p, label_of(entry, classes)) for entry in class_folders(folder) for p in signal_files(entry)]
        if not pairs:
            raise UserError(f"{folder} holds no .npy or .wav file; expected one folder of them for every class")
        files[pool] = pairs
    arrays = read_signals({pool: [p for p, _ in pairs] for pool, pairs in files.items()}, cut.size)
    made = {pool: Images(arrays[pool], np.array([c for _, c in files[pool]], dtype=np.int64)) for pool in arrays}
    return splits_from_arrays(str(root), made, classes, cut)


def read_signals(pools: Mapping[str, Sequence[Path]], size: int | None) -> dict[str, np.ndarray]:
    """The files of every pool as one array (N, C, ...), float32 or uint8; raises UserError for shapes that differ."""
    found, first = dict[str, np.ndarray](), None
    for pool, paths in pools.items():
        arrays = []
        for path in paths:
            array = read_signal(path, size)
            first = (path, array) if first is None else first
            if array.shape != first[1].shape or array.dtype != first[1].dtype:
                remedy = "; --size N cuts or fills up to N samples" if array.ndim == 2 else ""
                raise UserError(
                    f"{path} is {array.dtype} of shape {array.shape}, and {first[0]} {first[1].dtype} of shape "
                    f"{first[1].shape}; all must be of one{remedy}"
                )
            arrays.append(array)
        found[pool] = np.stack(arrays)
    return found


def read_signal(path: Path, size: int | None = None) -> np.ndarray:
    """One file, the channels first, uint8 or float32.

    A sound is (channels, samples) in [-1, 1]. Of an array (L,) is a signal, (C, L) one of up to 12 channels where L is
    at least 8 C, any other (H, W) an image, (H, W, 1 or 3) and (C, H, W) images with channels, (C, D, H, W) a volume.

    Raises:
        UserError: It cannot be read, or holds NaN, infinity or something else than numbers.
    """
    try:
        array = _sound(path) if path.suffix.lower() == ".wav" else np.load(path, allow_pickle=False)
    except FileNotFoundError:
        raise UserError(f"no such file: {path}") from None
    except Exception as error:  # whatever a damaged file makes the readers raise
        remedy = "it is damaged or something else: repair or remove it"
        raise UserError(f"cannot read {path} ({first_line(error, 100)}); {remedy}") from None
    if array.dtype != np.uint8:
        if not np.issubdtype(array.dtype, np.number) or np.iscomplexobj(array):
            raise UserError(f"{path} holds {array.dtype}; expected whole or floating-point numbers")
        array = array.astype(np.float32)
        if not np.isfinite(array).all():
            raise UserError(f"{path} holds NaN or infinity; every value must be finite")
    if path.suffix.lower() == ".npy" and array.ndim in (1, 2) and not _of_channels(array):
        array = array[None]
    elif array.ndim == 3 and array.shape[2] in (1, 3):
        array = array.transpose(2, 0, 1)
    if not 2 <= array.ndim <= 4 or not array.size:
        raise UserError(f"{path} has shape {array.shape}; expected a signal, an image or a volume")
    if size is not None and array.ndim == 2:
        array = np.pad(array[:, :size], ((0, 0), (0, max(0, size - array.shape[1]))))
    return np.ascontiguousarray(array)


def _of_channels(array: np.ndarray) -> bool:
    """Whether two axes are channels and samples, as of twelve leads or three accelerations, and no image."""
    return array.ndim == 2 and array.shape[0] <= 12 and array.shape[1] >= 8 * array.shape[0]


def _sound(path: Path) -> np.ndarray:
    """(channels, samples) in [-1, 1], whatever whole numbers the file holds."""
    from scipy.io import wavfile

    samples = wavfile.read(path)[1]
    if samples.dtype == np.uint8:
        scaled = (samples.astype(np.float32) - 128) / 128
    elif np.issubdtype(samples.dtype, np.integer):
        scaled = samples.astype(np.float32) / -float(np.iinfo(samples.dtype).min)
    else:
        scaled = samples.astype(np.float32)
    return np.atleast_2d(scaled.T)
