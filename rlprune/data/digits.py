"""The embedded data: scikit-learn's real handwritten digits, at 32x32 pixels."""

from __future__ import annotations

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
    from sklearn import datasets

    digits = datasets.load_digits()
    small = torch.from_numpy(digits.images.astype(np.float32))[:, None]
    large = F.interpolate(small, (SIDE, SIDE), mode="bilinear", align_corners=False)
    images = (large * (255.0 / 16.0)).round().clamp(0, 255).to(torch.uint8).numpy()
    labels = np.asarray(digits.target, dtype=np.int64)
    return splits_from_arrays("digits", {"train": Images(images, labels)}, tuple("0123456789"), cut)
