"""The embedded data: scikit-learn's real handwritten digits, at 32x32 pixels."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from rlprune.data.arrays import Images, splits_from_arrays
from rlprune.data.cutting import Cut
from rlprune.data.splits import DataSplits

SIDE = 32


def load_digits(cut: Cut) -> DataSplits:
    """1,797 digits of 8x8 pixels (UCI Optical Recognition of Handwritten Digits), up-sampled bilinearly to 32x32.

    There is no published test set: 359 digits are put aside, the same for every seed. Of the others, 431 are control
    by default (a tolerance of 0.01 is four of them), 125 calibration and 882 train.
    """
    table = _table()
    small = torch.from_numpy(table[:, :-1].astype(np.float32)).reshape(-1, 1, 8, 8)
    large = F.interpolate(small, (SIDE, SIDE), mode="bilinear", align_corners=False)
    images = (large * (255.0 / 16.0)).round().clamp(0, 255).to(torch.uint8).numpy()
    labels = table[:, -1].astype(np.int64)
    return splits_from_arrays("digits", {"train": Images(images, labels)}, tuple("0123456789"), cut)


def _table() -> Any:
    """The 64 pixels (0 to 16) and the label of every digit, (1797, 65)."""
    package = find_spec("sklearn")
    for place in (package and package.submodule_search_locations) or ():  # importing all of it takes a second
        file = Path(place, "datasets", "data", "digits.csv.gz")
        if file.is_file():
            return np.loadtxt(file, delimiter=",")
    from sklearn import datasets

    digits = datasets.load_digits()
    return np.hstack([digits.data, digits.target[:, None]])
