from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from rlprune.data import load_data
from rlprune.errors import UserError

Content = dict[str, list[dict[str, Any]]]


def picture(path: Path, size: tuple[int, int] = (30, 40)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)).save(path)


def coco(root: Path, pool: str = "train", count: int = 14, change: Callable[[Content], None] | None = None) -> Path:
    content: Content = {
        "images": [{"id": i, "file_name": f"{i}.png", "height": 30, "width": 40} for i in range(count)],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
        "annotations": [
            {"id": i, "image_id": i, "category_id": 1 + i % 2, "bbox": [5, 6, 10, 12], "area": 120, "iscrowd": 0}
            for i in range(count - 1)  # the last image is empty
        ],
    }
    if change is not None:
        change(content)
    for i in range(count):
        picture(root / pool / f"{i}.png")
    (root / f"{pool}.json").write_text(json.dumps(content))
    return root


def test_coco_folders(tmp_path: Path) -> None:
    coco(tmp_path)
    coco(tmp_path, "val", 5)
    data = load_data(str(tmp_path))
    assert data.task == "detection"
    assert data.classes == ("__background__", "cat", "dog")
    assert data.input_shape == (3, 30, 40)
    assert data.roles["test"]["source"] == "val"
    images, targets = next(iter(data.test.batches(5)))
    assert [image.shape for image in images] == [(3, 30, 40)] * 5
    assert float(images[0].max()) <= 1.0
    assert targets[0]["boxes"].tolist() == [[5, 6, 15, 18]]
    assert targets[4]["boxes"].shape == (0, 4)
    assert [len(target["labels"]) for target in targets] == [1, 1, 1, 1, 0]


def test_cocos_own_layout_and_numbers(tmp_path: Path) -> None:
    def gaps(content: Content) -> None:
        content["categories"] = [{"id": number, "name": str(number)} for number in (1, 2, 4)]
        content["annotations"][0]["bbox"] = [3, 3, 0, 5]  # COCO's own files have such

    coco(tmp_path, "train2017", change=gaps)
    coco(tmp_path, "val2017", 5, gaps)
    (tmp_path / "annotations").mkdir()
    for pool in ("train2017", "val2017"):
        (tmp_path / f"{pool}.json").rename(tmp_path / "annotations" / f"instances_{pool}.json")
    data = load_data("torchvision:CocoDetection", root=tmp_path)
    assert data.classes == ("__background__", "1", "2", "(none)", "4")
    assert len(next(iter(data.whole_test.batches(1)))[1][0]["boxes"]) == 0
    with pytest.raises(UserError, match="no COCO in"):
        load_data("torchvision:CocoDetection", root=tmp_path / "annotations")


def test_other_category_numbers_are_counted_from_one(tmp_path: Path) -> None:
    def renumber(content: Content) -> None:
        for one in content["categories"]:
            one["id"] = {1: 0, 2: 700}[one["id"]]
        for one in content["annotations"]:
            one["category_id"] = {1: 0, 2: 700}[one["category_id"]]

    data = load_data(str(coco(tmp_path, change=renumber)))
    assert data.classes == ("__background__", "cat", "dog")
    labels = torch.cat([target["labels"] for _, targets in data.train.batches(4) for target in targets])
    assert {*labels.tolist()} == {1, 2}


def test_sizes_are_for_the_detector_to_choose(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="size=64 does not apply to detection data"):
        load_data(f"{coco(tmp_path)}:size=64")


def test_augmented_boxes_stay_inside_and_keep_their_labels(tmp_path: Path) -> None:
    data = load_data(str(coco(tmp_path, count=20)))
    runs = [list(data.train.batches(4, seed=0, epoch=epoch, augment=True)) for epoch in (0, 0, 1)]
    moved = 0
    for images, targets in runs[0]:
        for image, target in zip(images, targets, strict=True):
            boxes, (_, height, width) = target["boxes"], image.shape
            assert len(boxes) == len(target["labels"]) == len(target["iscrowd"])
            assert type(boxes) is torch.Tensor
            assert (boxes >= 0).all()
            assert (boxes[:, 0::2] <= width).all()
            assert (boxes[:, 1::2] <= height).all()
            moved += boxes.tolist() != [[5, 6, 15, 18]]
    assert moved > 3
    for (a, b), (c, d) in zip(runs[0], runs[1], strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a, c, strict=True))
        assert all(torch.equal(x["boxes"], y["boxes"]) for x, y in zip(b, d, strict=True))


def annotation(**changes: Any) -> Callable[[Content], None]:
    return lambda content: content["annotations"][0].update(changes)


def without(where: str, key: str) -> Callable[[Content], None]:
    return lambda content: content[where][0].pop(key)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content.pop("images"), "has no list 'images'"),
        (lambda content: content.update(annotations=[]), "'annotations' is empty"),
        (lambda content: content.update(images=[]), "'images' is empty"),
        (
            annotation(bbox=[35, 6, 10, 12]),
            r"annotation 0: the box \(35, 6\) to \(45, 18\) lies outside the image of 40x30",
        ),
        (annotation(bbox=[-3, 6, 10, 12]), "lies outside"),
        (annotation(bbox=[5, 6, 0, 12]), "has no area"),
        (annotation(bbox=[5, 6, float("nan"), 12]), "has no area"),
        (annotation(bbox=[5, 6, 3]), r"it must be \[x, y, width, height\]"),
        (annotation(bbox="box"), r"it must be \[x, y, width, height\]"),
        (annotation(image_id=99), "for image 99, which the file does not list"),
        (annotation(category_id=9), r"category 9; known: \[1, 2\]"),
        (without("annotations", "bbox"), "must have image_id, category_id and bbox"),
        (without("images", "height"), "must have id, file_name, height and width"),
        (without("categories", "name"), "must have a whole-number id and a name"),
        (lambda content: content["images"][0].update(file_name="none.png"), r"no such image: .*none\.png"),
    ],
)
def test_bad_annotations_are_named(tmp_path: Path, change: Callable[[Content], None], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        load_data(str(coco(tmp_path, change=change)))
    assert "\n" not in str(caught.value)


def test_bad_files(tmp_path: Path) -> None:
    coco(tmp_path)
    (tmp_path / "train" / "3.png").unlink()
    picture(tmp_path / "train" / "3.png", (10, 10))
    data = load_data(str(tmp_path))
    with pytest.raises(UserError, match=r"3\.png is 10x10 and its annotation says 40x30"):
        for role in ("train", "calibration", "control", "test"):
            list(data.split(role).batches(4))
    (tmp_path / "train.json").write_text("{")
    with pytest.raises(UserError, match=r"cannot read .*train\.json as JSON"):
        load_data(str(tmp_path))


def gtsdb(root: Path, count: int = 12, lines: str | None = None, start: int = 0) -> Path:
    for i in range(start, start + count):
        picture(root / f"{i:05}.ppm")
    text = "".join(f"{i:05}.ppm;5;6;15;18;{i % 43}\n" for i in range(start, start + count - 2))
    (root / "gt.txt").write_text(text if lines is None else lines)
    return root


def test_gtsdb(tmp_path: Path) -> None:
    gtsdb(tmp_path / "signs")
    data = load_data(str(tmp_path / "signs"))
    assert len(data.classes) == 44
    assert sum(len(data.split(role)) for role in ("train", "calibration", "control", "test")) == 12
    boxes = [target["boxes"].tolist() for _, targets in data.train.batches(3) for target in targets]
    assert all(one in ([], [[5, 6, 16, 19]]) for one in boxes)
    gtsdb(tmp_path / "more", 12, start=594)
    assert len(load_data(str(tmp_path / "more")).whole_test) == 6


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("00000.ppm;5;6;15;18", "line 1 is '00000.ppm;5;6;15;18'; expected file;left;top;right;bottom;class"),
        ("00000.ppm;5;6;15;18;x", "expected file;left;top;right;bottom;class"),
        ("00000.ppm;5;6;15;18;43", r"class 43; classes lie in \[0, 42\]"),
        ("00099.ppm;5;6;15;18;1", "for 00099.ppm, which is not in"),
        ("", "hold no box"),
    ],
)
def test_bad_lines_are_numbered(tmp_path: Path, line: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_data(str(gtsdb(tmp_path, lines=line)))


def test_a_box_outside_a_gtsdb_image_is_found_on_reading(tmp_path: Path) -> None:
    data = load_data(str(gtsdb(tmp_path, lines="".join(f"{i:05}.ppm;5;6;55;18;1\n" for i in range(12)))))
    with pytest.raises(UserError, match=r"\.ppm: the box .* lies outside the image of 40x30"):
        list(data.train.batches(2))


def test_real_sets(real_data: Path) -> None:
    cells, signs = load_data(str(real_data / "bccd")), load_data(str(real_data / "roadsign"))
    assert cells.classes == ("__background__", "Platelets", "RBC", "WBC")
    assert [len(cells.train) + len(cells.calibration), len(cells.control), len(cells.test)] == [205, 87, 72]
    assert len(signs.whole_test) == 175
    assert sum(len(target["boxes"]) for _, targets in cells.test.batches(8) for target in targets) == 945
