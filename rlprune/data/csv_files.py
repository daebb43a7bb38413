"""A CSV file of paths and labels: `path,label`, and `split` (train, val, test) where the cut is given."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from rlprune.data.arrays import Images, splits_from_arrays
from rlprune.data.cutting import Cut
from rlprune.data.folders import DEFAULT_SIDE, NATIVE_LIMIT, POOL_OF, splits_from_files
from rlprune.data.images import SUFFIXES as IMAGE_SUFFIXES
from rlprune.data.images import common_shape, decode_all
from rlprune.data.npz import CLASSES, check_targets, name_of
from rlprune.data.signals import SUFFIXES, read_signals
from rlprune.data.splits import DataSplits
from rlprune.errors import UserError, first_line

_FORM = "expected a first line 'path,label' or 'path,label,split'; other tasks take a column for every number"
_DELIMITERS = (",", ";", "\t")
Row = dict[str, str]


def load_csv(path: Path, cut: Cut, task: str = "classification") -> DataSplits:
    """Image, `.npy` or `.wav` files, named relative to the CSV file, with their targets.

    A classification's labels are names of classes, in alphabetical order, or in numeric order where all are whole
    numbers. Any other task gets the columns beside `path` and `split` as its targets, float32.

    Columns are parted by commas, semicolons or tabs, as the first line is. An empty number is NaN: not known.

    Raises:
        UserError: It cannot be read, has other columns, or names a file that is not there.
    """
    pools, columns = _pools(path)
    files = {pool: [_file(path, row["path"]) for row in rows] for pool, rows in pools.items()}
    every = [file for found in files.values() for file in found]
    images = every[0].suffix.lower() in IMAGE_SUFFIXES
    if name_of(task) not in CLASSES:
        targets = {pool: _numbers(path, rows, columns, task) for pool, rows in pools.items()}
        return _of_arrays(path, files, targets, tuple(columns), cut, task, images)
    if "label" not in columns:
        raise UserError(f"{path} has no column 'label'; {_FORM}")
    classes = cut.classes or _classes([row["label"] for rows in pools.values() for row in rows])
    labels = {pool: _labels(path, rows, classes) for pool, rows in pools.items()}
    if not images:
        return _of_arrays(path, files, labels, classes, cut, task, images)
    shape = common_shape(every, cut, NATIVE_LIMIT, DEFAULT_SIDE)
    return splits_from_files(str(path), {pool: (files[pool], labels[pool]) for pool in files}, classes, shape, cut)


def _pools(path: Path) -> tuple[dict[str, list[Row]], list[str]]:
    """Lines by pool, and the columns that hold targets."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            first = file.readline()
            file.seek(0)
            reader = csv.DictReader(file, skipinitialspace=True, delimiter=max(_DELIMITERS, key=first.count))
            rows = list(reader)
            heads = [name.strip() for name in reader.fieldnames or []]
    except UnicodeDecodeError:
        raise UserError(f"cannot read {path}: it is no UTF-8 text; save it as CSV in UTF-8") from None
    except (OSError, csv.Error) as error:
        raise UserError(f"cannot read {path} as CSV ({first_line(error)})") from None
    columns = [name for name in heads if name not in ("path", "split")]
    if "path" not in heads or not columns:
        raise UserError(f"{path} has the columns {', '.join(heads) or '(none)'}; {_FORM}")
    if not rows:
        raise UserError(f"{path} lists no file; {_FORM}")
    pools: dict[str, list[Row]] = {}
    for number, row in enumerate(rows, 2):
        if None in row or None in row.values():
            raise UserError(f"{path}, line {number}: it has not {len(heads)} values, as the first line has")
        split = (row.get("split") or "train").strip().lower()
        if split not in POOL_OF:
            raise UserError(f"{path}, line {number}: split is {split!r}; it must be train, val or test")
        pools.setdefault(POOL_OF[split], []).append(row)
    if "train" not in pools:
        raise UserError(f"{path} lists no file whose split is train")
    return pools, columns


def _file(table: Path, name: str) -> Path:
    file = table.parent / name
    if file.suffix.lower() not in SUFFIXES | IMAGE_SUFFIXES:
        raise UserError(f"{table} names {name!r}, which is no image, .npy or .wav file")
    if not file.is_file():
        raise UserError(f"{table} names {name!r}, and there is no such file in {table.parent}")
    return file


def _classes(labels: Sequence[str]) -> tuple[str, ...]:
    names = set(labels)
    numbers = all(name.isdigit() for name in names)
    return tuple(sorted(names, key=lambda name: (int(name), name) if numbers else (0, name)))


def _labels(path: Path, rows: Sequence[Row], classes: Sequence[str]) -> np.ndarray:
    places = {name: place for place, name in enumerate(classes)}
    for row in rows:
        if row["label"] not in places:
            raise UserError(f"{path}: label {row['label']!r} is none of the classes {', '.join(classes[:10])}")
    return np.array([places[row["label"]] for row in rows], dtype=np.int64)


def _numbers(path: Path, rows: Sequence[Row], columns: Sequence[str], task: str) -> np.ndarray:
    try:
        found = np.array([[float(row[name] or "nan") for name in columns] for row in rows], dtype=np.float32)
    except ValueError as error:
        raise UserError(f"{path}: {error}; the targets of this task are numbers") from None
    check_targets(found, str(path), task)
    return found


def _of_arrays(
    path: Path,
    files: dict[str, list[Path]],
    targets: dict[str, np.ndarray],
    classes: tuple[str, ...],
    cut: Cut,
    task: str,
    images: bool,
) -> DataSplits:
    """All files in memory."""
    if images:
        shape = common_shape([file for found in files.values() for file in found], cut, NATIVE_LIMIT, DEFAULT_SIDE)
        arrays = {pool: decode_all(found, *shape) for pool, found in files.items()}
    else:
        arrays = read_signals(files, cut.size)
    made = {pool: Images(array, targets[pool]) for pool, array in arrays.items()}
    return splits_from_arrays(str(path), made, classes, cut, task)
