"""The German Traffic Sign Detection Benchmark: one folder of `00000.ppm` images with `gt.txt`."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import numpy as np

from rlprune.data.boxes import BACKGROUND, BoxedImage, splits_from_boxes
from rlprune.data.cutting import Cut
from rlprune.data.images import image_files
from rlprune.data.splits import DataSplits
from rlprune.errors import UserError

SIGNS = 43
TRAINING_IMAGES = 600  # of the 900; the authors test on the rest


def is_gtsdb(root: Path) -> bool:
    """Whether a folder holds `gt.txt`."""
    return (root / "gt.txt").is_file()


def load_gtsdb(root: Path, cut: Cut) -> DataSplits:
    """GTSDB (Houben et al. 2013): `file;left;top;right;bottom;class` a line, classes 0 to 42.

    Images from 00600 on are the test images; with the training images alone, a fifth of them is put aside.

    Raises:
        UserError: A line is malformed, its class is unknown, or its image is missing.
    """
    found: dict[str, list[tuple[list[float], int]]] = defaultdict(list)
    for number, line in enumerate((root / "gt.txt").read_text().splitlines(), start=1):
        if not line.strip():
            continue
        where, fields = f"{root / 'gt.txt'} line {number}", line.strip().split(";")
        try:
            name, (left, top, right, bottom, sign) = fields[0], map(int, fields[1:])
        except ValueError:
            raise UserError(f"{where} is {line.strip()!r}; expected file;left;top;right;bottom;class") from None
        if not 0 <= sign < SIGNS:
            raise UserError(f"{where} has class {sign}; classes lie in [0, {SIGNS - 1}]")
        if not (root / name).is_file():
            raise UserError(f"{where} is for {name}, which is not in {root}")
        found[name].append(([left, top, right + 1, bottom + 1], sign + 1))  # both corners are inside the box
    images = [_image(path, found[path.name]) for path in image_files(root)]
    train = [one for one in images if _number(one.path) < TRAINING_IMAGES]
    test = [one for one in images if _number(one.path) >= TRAINING_IMAGES]
    pools = {"train": train, "test": test} if test else {"train": train}
    classes = (BACKGROUND, *(f"sign {sign}" for sign in range(SIGNS)))
    return splits_from_boxes(str(root), pools, classes, cut, mirror=False)


def _image(path: Path, annotations: list[tuple[list[float], int]]) -> BoxedImage:
    boxes = np.asarray([box for box, _ in annotations], dtype=np.float64).reshape(-1, 4)
    labels = np.asarray([label for _, label in annotations], dtype=np.int64)
    return BoxedImage(path, boxes, labels, np.zeros(len(labels), dtype=np.int64))


def _number(path: Path) -> int:
    try:
        return int(path.stem)
    except ValueError:
        raise UserError(f"{path} is not named like 00000.ppm; GTSDB's files are numbered") from None
