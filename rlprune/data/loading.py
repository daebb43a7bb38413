"""Data from a specification: a name, a file or a folder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from rlprune.data import torchvision_dense  # noqa: F401 - importing enters its sets into the registry
from rlprune.data.coco_files import is_coco_folder, load_coco_folder
from rlprune.data.csv_files import load_csv
from rlprune.data.cutting import Cut
from rlprune.data.digits import load_digits
from rlprune.data.folders import is_class_folder, load_folder
from rlprune.data.gtsdb import is_gtsdb, load_gtsdb
from rlprune.data.hugging_face import is_hugging_face, load_hugging_face
from rlprune.data.npz import load_npz
from rlprune.data.own import load_own
from rlprune.data.segmentation import is_mask_folder, load_mask_folder
from rlprune.data.signals import is_signal_folder, load_signal_folder
from rlprune.data.splits import DataSplits
from rlprune.data.tiles import is_airs, is_inria, load_airs, load_inria
from rlprune.data.torchvision_sets import TORCHVISION_SETS, load_torchvision
from rlprune.errors import UserError, check_known, check_seed, reading
from rlprune.files import read_yaml
from rlprune.importing import file_and_name
from rlprune.options import parse_options
from rlprune.typed import checked, words

_FORMS = (
    "give 'digits', an .npz file, a .csv file of paths and labels, a folder (of a folder of images, .npy or .wav files "
    "for every class; of images and masks; with COCO's train.json; of Hugging Face), 'torchvision:NAME', or a data set "
    "of your own, 'file.py:name'"
)


# What a folder may be, the most telling layout first
_LAYOUTS: tuple[tuple[Callable[[Path], bool], Callable[[Path, Cut], DataSplits]], ...] = (
    (is_hugging_face, load_hugging_face),
    (is_mask_folder, load_mask_folder),
    (is_inria, load_inria),
    (is_airs, load_airs),
    (is_coco_folder, load_coco_folder),
    (is_gtsdb, load_gtsdb),
    (is_class_folder, load_folder),
    (is_signal_folder, load_signal_folder),
)
DATASET = "dataset.yml"
"""In a folder, says how it is to be read: `normalise`, `size`, `channels`, and `classes`, their names in order."""


def load_data(
    spec: str,
    *,
    root: str | Path | None = None,
    seed: int = 0,
    control_from: str | None = None,
    control_size: int | None = None,
    calibration_size: int | None = None,
    size: int | None = None,
    channels: int | None = None,
    normalise: str | None = None,
    task: str | None = None,
) -> DataSplits:
    """Load data and cut it into disjoint roles.

    Args:
        spec: `digits`, `FILE.npz`, `FILE.csv`, a folder, `torchvision:NAME`, or a data set of one's own,
            `FILE.py:NAME`. A folder may be followed by `:size=N`, the side to bring its images to (or of the tiles to
            cut them into).
        root: Folder that `spec` is relative to, or where torchvision's sets lie.
        seed: Of the cut.
        control_from: "train", "test" for a network that may have seen every training image, None chooses (see `Cut`).
        control_size: Images to decide on; None chooses.
        calibration_size: Images to calibrate on; None chooses.
        size: Side that the images of a folder are brought to, or of the tiles that they are cut into; None chooses.
        channels: 1 reads a folder's images as grey, 3 as colour; None keeps what they are.
        normalise: `imagenet`, `none` (images in [0, 1], or arrays of floating point as they are), or `MEAN:STD`, each
            one number or one a channel with commas between; None takes ImageNet's constants for colour images, and
            what is measured on the train role for others. A folder's `dataset.yml` may say all three, and the classes.
        task: What the targets of an `.npz` or `.csv` file are for, where that is not classification.

    Raises:
        UserError: There is no such data, it cannot be read, or it has too few images for all roles.

    Example:
        >>> data = load_data("digits")
        >>> [len(data.split(role)) for role in ("train", "calibration", "control", "test")]
        [882, 125, 431, 359]
    """
    check_seed(seed)
    for name, kind, value in (("data", str, spec), ("normalise", str | None, normalise), ("size", int | None, size),
                              ("control_size", int | None, control_size), ("channels", int | None, channels),
                              ("calibration_size", int | None, calibration_size)):  # fmt: skip
        checked(kind, value, name)
    cut = Cut(seed, control_from, control_size, calibration_size, size, channels, normalise)
    fixed = spec == "digits" or spec.endswith(".npz")
    if fixed and size is not None:
        raise UserError(f"size is {size}, and the images of {spec} are arrays, which stay as they are; leave it out")
    if spec == "digits":
        return load_digits(cut)
    if spec.startswith("torchvision:"):
        return load_torchvision(spec.partition(":")[2], cut, None if root is None else Path(root))
    if (own := file_and_name(spec)) is not None:
        return load_own(spec, Path(root or "") / own[0], own[1], cut, task)
    path, side = _path_and_size(spec, Path() if root is None else Path(root))
    return _load_path(spec, path, replace(cut, size=side or size), task)


def _load_path(spec: str, path: Path, cut: Cut, task: str | None) -> DataSplits:
    """The data in a file or a folder, which `spec` named."""
    if path.suffix == ".npz":
        with reading(path, "an .npz file of arrays"):
            return load_npz(path, cut, task or "classification")
    if path.suffix == ".csv" and path.is_file():
        return load_csv(path, _as_described(path.parent / DATASET, cut), task or "classification")
    if not path.exists():
        raise _missing(spec, path)
    if not path.is_dir():
        raise UserError(f"{path} is a file of an unknown kind; {_FORMS}")
    if path.resolve() in (Path(path.resolve().anchor), Path.home()):
        raise UserError(f"{path} holds everything there is here; give the folder of the data alone")
    cut = _as_described(path / DATASET, cut)
    with reading(path, "data in a layout known here"):
        for fits, load in _LAYOUTS:
            if fits(path):
                return load(path, cut)
    raise UserError(f"{path} holds no images in a layout known here; {_FORMS}")


def _missing(spec: str, path: Path) -> UserError:
    """The error for data that is not there."""
    if "://" in spec:
        return UserError(f"{spec} is an address; download it, and give the file or the folder")
    named = [name for name in TORCHVISION_SETS.names() if name.lower() == spec.lower()]
    hint = f"did you mean 'torchvision:{named[0]}'? " if named else ""
    return UserError(f"no such data: {path}; {hint}{_FORMS}")


def _path_and_size(spec: str, root: Path) -> tuple[Path, int | None]:
    """`FOLDER` or `FOLDER:size=N`; a folder whose own name looks like the latter is taken as it is."""
    name, colon, text = spec.rpartition(":")
    if not colon or "=" not in text or (root / spec).exists():
        return root / spec, None
    return root / name, int(parse_options("a data folder", text, {"size": 224})["size"])


def _as_described(file: Path, cut: Cut) -> Cut:
    """The cut with what a folder's `dataset.yml` says, where nothing else was asked for."""
    if not file.is_file():
        return cut
    content = read_yaml(file, "the file") or {}
    known: dict[str, Any] = {"normalise": str, "size": int, "channels": int, "classes": list}
    for key, value in content.items() if isinstance(content, dict) else [(str(content), None)]:
        check_known(f"entry of {file}", str(key), known)
        if type(value) is not known[key]:
            raise UserError(f"{file}: {key} is {value!r}; it must be {words(known[key])}")
        if getattr(cut, key) is None:
            changes: dict[str, Any] = {key: tuple(map(str, value)) if isinstance(value, list) else value}
            cut = replace(cut, **changes)
    return cut
