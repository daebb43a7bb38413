"""Data from a specification: a name, a file or a folder."""

from __future__ import annotations

from pathlib import Path

from rlprune.data.cutting import Cut
from rlprune.data.digits import load_digits
from rlprune.data.folders import is_class_folder, load_folder
from rlprune.data.npz import load_npz
from rlprune.data.splits import DataSplits
from rlprune.data.torchvision_sets import load_torchvision
from rlprune.errors import UserError

_FORMS = "give 'digits', an .npz file, a folder with a folder of images for every class, or 'torchvision:NAME'"


def load_data(
    spec: str,
    *,
    root: str | Path | None = None,
    seed: int = 0,
    control_from: str = "train",
    control_size: int | None = None,
    calibration_size: int | None = None,
    image_size: int | None = None,
) -> DataSplits:
    """Load data and cut it into disjoint roles.

    Args:
        spec: `digits`, `FILE.npz`, a folder, or `torchvision:NAME`.
        root: Folder that `spec` is relative to, or where torchvision's sets lie.
        seed: Of the cut.
        control_from: "train", or "test" for a network that may have seen every training image (see `Cut`).
        control_size: Images to decide on; None chooses.
        calibration_size: Images to calibrate on; None chooses.
        image_size: Side to bring the images of folders to; None chooses.

    Raises:
        UserError: There is no such data, it cannot be read, or it has too few images for all roles.

    Example:
        >>> data = load_data("digits")
        >>> [len(data.split(role)) for role in ("train", "calibration", "control", "test")]
        [882, 125, 431, 359]
    """
    cut = Cut(seed, control_from, control_size, calibration_size)
    if spec == "digits":
        return load_digits(cut)
    if spec.startswith("torchvision:"):
        return load_torchvision(spec.partition(":")[2], cut, None if root is None else Path(root))
    path = Path(spec) if root is None else Path(root) / spec
    if path.suffix == ".npz":
        return load_npz(path, cut)
    if not path.exists():
        raise UserError(f"no such data: {path}; {_FORMS}")
    if not path.is_dir():
        raise UserError(f"{path} is a file of an unknown kind; {_FORMS}")
    if is_class_folder(path):
        return load_folder(path, cut, image_size)
    raise UserError(f"{path} holds no images in a layout known here; {_FORMS}")
