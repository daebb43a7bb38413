from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from torchvision import datasets

from rlprune.data import load_data
from rlprune.errors import UserError


def files(folder: Path, count: int, shape: tuple[int, ...], value: int, suffix: str = "png") -> list[str]:
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{i}.{suffix}" for i in range(count)]
    for path in paths:
        Image.fromarray(np.full(shape, value, np.uint8)).save(path)
    return list(map(str, paths))


def test_voc_segmentation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fake(root: str, year: str, image_set: str, download: bool) -> Any:
        where = tmp_path / image_set
        return SimpleNamespace(images=files(where / "i", 9, (20, 20, 3), 5), masks=files(where / "m", 9, (20, 20), 20))

    monkeypatch.setattr(datasets, "VOCSegmentation", fake)
    data = load_data("torchvision:VOCSegmentation", root=tmp_path)
    assert len(data.classes) == 21
    assert data.classes[20] == "tvmonitor"
    assert next(iter(data.test.batches(1)))[1].unique().tolist() == [20]


XML = """<annotation><size><width>20</width><height>20</height></size>
<object><name>{name}</name><difficult>{difficult}</difficult>
<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>10</xmax><ymax>20</ymax></bndbox></object></annotation>"""


@pytest.mark.parametrize("name", ["dog", "dragon"])
def test_voc_detection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    def fake(root: str, year: str, image_set: str, download: bool) -> Any:
        images = files(tmp_path / image_set, 9, (20, 20, 3), 5)
        for i, path in enumerate(images):
            Path(path).with_suffix(".xml").write_text(XML.format(name=name, difficult=i % 2))
        return SimpleNamespace(images=images, targets=[str(Path(path).with_suffix(".xml")) for path in images])

    monkeypatch.setattr(datasets, "VOCDetection", fake)
    if name == "dragon":
        with pytest.raises(UserError, match=r"cannot read .*0\.xml as a VOC annotation"):
            load_data("torchvision:VOCDetection", root=tmp_path)
        return
    data = load_data("torchvision:VOCDetection", root=tmp_path)
    target = next(iter(data.whole_test.batches(2)))[1][1]
    assert target["boxes"].tolist() == [[0, 0, 10, 20]]
    assert data.classes[int(target["labels"][0])] == "dog"
    assert target["iscrowd"].tolist() == [1]


def test_cityscapes_numbers_become_the_benchmarks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = datasets.Cityscapes

    class Fake:
        classes = real.classes

        def __init__(self, root: str, split: str, mode: str, target_type: str) -> None:
            where = tmp_path / split
            self.images = files(where / "i", 9, (16, 24, 3), 5)
            self.targets = [[path] for path in files(where / "m", 9, (16, 24), 26)]  # car
            Image.fromarray(np.full((16, 24), 3, np.uint8)).save(where / "m" / "0.png")  # out of roi: not scored

    monkeypatch.setattr(datasets, "Cityscapes", Fake)
    data = load_data("torchvision:Cityscapes", root=tmp_path)
    assert len(data.classes) == 19
    values = {int(v) for _, masks in data.whole_test.batches(1) for v in masks.unique()}
    assert values == {data.classes.index("car"), 255}


@pytest.mark.parametrize("name", ["VOCSegmentation", "VOCDetection", "Cityscapes"])
def test_sets_that_are_not_there(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("Dataset not found\nor corrupted")

    monkeypatch.setattr(datasets, name, fail)
    with pytest.raises(UserError, match=str(tmp_path)) as caught:
        load_data(f"torchvision:{name}", root=tmp_path)
    assert "\n" not in str(caught.value)
