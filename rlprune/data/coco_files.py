"""COCO's JSON files with folders of images."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from rlprune.data.boxes import BACKGROUND, BoxedImage, check_boxes, splits_from_boxes
from rlprune.data.cutting import Cut
from rlprune.data.splits import DataSplits
from rlprune.errors import UserError
from rlprune.files import read_json
from rlprune.typed import checked

_POOLS = ("train", "val", "test")


def find_files(root: Path) -> dict[str, tuple[Path, Path]]:
    """Pool -> (JSON file, image folder).

    Two layouts: `train.json` beside `train/`, and COCO's own, `annotations/instances_train2017.json` and `train2017/`.
    """
    found = {}
    for pool in _POOLS:
        file = root / f"{pool}.json"
        if file.is_file():
            found[pool] = (file, root / pool if (root / pool).is_dir() else root)
            continue
        for official in sorted((root / "annotations").glob(f"instances_{pool}*.json")):
            found[pool] = (official, root / official.stem.removeprefix("instances_"))
    return found if "train" in found else {}


def is_coco_folder(root: Path) -> bool:
    """Whether a folder holds COCO files."""
    return bool(find_files(root))


def load_coco_folder(root: Path, cut: Cut) -> DataSplits:
    """A detection data set in COCO's format.

    Category numbers are the labels where they lie between 1 and twice their count (COCO's own do, with gaps, and so
    torchvision's weights for COCO fit); others are numbered from 1 in their order. Label 0 is the background.

    Raises:
        UserError: A file is damaged, or an annotation names an image or a category that is not there, or its box has
            no area or lies outside the image.
    """
    files = find_files(root)
    contents = {pool: _read(file) for pool, (file, _) in files.items()}
    labels, classes = _label_table(files["train"][0], contents["train"])
    pools = {pool: _images(file, folder, contents[pool], labels) for pool, (file, folder) in files.items()}
    return splits_from_boxes(str(root), pools, classes, cut)


def _read(file: Path) -> dict[str, list[dict[str, Any]]]:
    content: dict[str, list[dict[str, Any]]] = read_json(file, finite=False)  # a box says where
    for key in ("images", "annotations", "categories"):
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise UserError(f"{file} has no list {key!r}; COCO files have images, annotations and categories")
        if not content[key]:
            raise UserError(f"{file}: {key!r} is empty; there must be at least one")
        for place, one in enumerate(content[key]):
            if not isinstance(one, dict):
                raise UserError(f"{file}: {key}[{place}] is {str(one)[:40]!r}; every entry must be a table")
    return content


def _label_table(file: Path, content: dict[str, list[dict[str, Any]]]) -> tuple[dict[int, int], tuple[str, ...]]:
    try:
        names = {int(one["id"]): str(one["name"]) for one in content["categories"]}
    except (KeyError, TypeError, ValueError):
        raise UserError(f"{file}: every category must have a whole-number id and a name") from None
    numbers = sorted(names)
    kept = numbers[0] >= 1 and numbers[-1] <= 2 * len(numbers)
    labels = {number: number if kept else rank for rank, number in enumerate(numbers, start=1)}
    classes = [BACKGROUND] + ["(none)"] * max(labels.values())
    for number, label in labels.items():
        classes[label] = names[number]
    return labels, tuple(classes)


def _images(
    file: Path, folder: Path, content: dict[str, list[dict[str, Any]]], labels: dict[int, int]
) -> list[BoxedImage]:
    sizes = {}
    for one in content["images"]:
        if not {"id", "file_name", "height", "width"} <= one.keys():
            raise UserError(f"{file}: every image must have id, file_name, height and width; one has {', '.join(one)}")
        where = f"{file}: image {one['id']!r}"
        height, width = (checked(int, one[side], f"{where}: {side}") for side in ("height", "width"))
        checked(str, one["file_name"], f"{where}: file_name")
        sizes[checked(int | str, one["id"], where)] = (height, width)
    official = file.name.startswith("instances_")  # COCO's own files hold a few boxes without area: left out
    found: dict[Any, list[tuple[list[float], int, int]]] = defaultdict(list)
    points: dict[Any, list[np.ndarray]] = defaultdict(list)
    counts = {len(one.get("keypoints", ())) for one in content["annotations"]}
    for one in content["annotations"]:
        where = f"{file}: annotation {one.get('id', '(without id)')}"
        if not {"image_id", "category_id", "bbox"} <= one.keys():
            raise UserError(f"{where} must have image_id, category_id and bbox; it has {', '.join(one)}")
        if one["image_id"] not in sizes:
            raise UserError(f"{where} is for image {one['image_id']!r}, which the file does not list")
        if one["category_id"] not in labels:
            raise UserError(f"{where} is of category {one['category_id']!r}; known: {sorted(labels)[:20]}")
        if official and min(one["bbox"][2:]) <= 0:
            continue
        found[one["image_id"]].append(
            (
                _corners(one["bbox"], sizes[one["image_id"]], where),
                labels[one["category_id"]],
                int(one.get("iscrowd", 0)),
            )
        )
        if "keypoints" in one:
            points[one["image_id"]].append(_keypoints(one["keypoints"], counts, where))
    images = []
    for one in content["images"]:
        path = folder / one["file_name"]
        if not path.is_file():
            raise UserError(f"no such image: {path}, which {file} lists")
        annotations = found[one["id"]]
        images.append(
            BoxedImage(
                path,
                np.asarray([box for box, _, _ in annotations], dtype=np.float64).reshape(-1, 4),
                np.asarray([label for _, label, _ in annotations], dtype=np.int64),
                np.asarray([crowd for _, _, crowd in annotations], dtype=np.int64),
                sizes[one["id"]],
                np.asarray(points[one["id"]]).reshape(-1, max(counts) // 3, 3) if max(counts) else None,
            )
        )
    return images


def _keypoints(values: Any, counts: set[int], where: str) -> np.ndarray:
    """(k, 3); raises UserError unless every annotation has as many points."""
    if len(counts) > 1 or not isinstance(values, list) or len(values) % 3:
        raise UserError(
            f"{where} has {values!r:.40} as keypoints; every one must have [x, y, v] for equally many points"
        )
    return np.asarray(values, dtype=np.float64).reshape(-1, 3)


def _corners(box: Any, size: tuple[int, int], where: str) -> list[float]:
    if not isinstance(box, list) or len(box) != 4 or not all(isinstance(value, (int, float)) for value in box):
        raise UserError(f"{where} has the bbox {box!r}; it must be [x, y, width, height]")
    left, top, width, height = map(float, box)
    corners = [left, top, left + width, top + height]
    check_boxes(np.asarray([corners]), size, where)
    return corners
