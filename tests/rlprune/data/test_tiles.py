from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from rlprune.data import load_data, tiles
from rlprune.errors import UserError


def save(path: Path, array: np.ndarray, compression: str | None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, compression=compression)


def inria(root: Path, compression: str | None = None, size: int = 70) -> Path:
    generator = np.random.default_rng(0)
    for city in ("austin", "vienna"):
        for number in (1, 2, 6, 7, 8, 9):
            values = generator.integers(0, 2, (size, size), dtype=np.uint8)
            image = np.stack([values * 200, values * 100, values], axis=2)  # the image tells the mask
            save(root / "train" / "images" / f"{city}{number}.tif", image, compression)
            save(root / "train" / "gt" / f"{city}{number}.tif", values * 255, compression)
    return root


@pytest.mark.parametrize("compression", [None, "tiff_lzw"])
def test_inria_tiles_keep_image_and_mask_together(tmp_path: Path, compression: str | None) -> None:
    data = load_data(f"{inria(tmp_path, compression)}:size=32")
    assert data.classes == ("background", "building")
    assert data.input_shape == (3, 32, 32)
    assert len(data.whole_test) == 4 * 4  # the first five images of each city are held out; 2x2 tiles in each
    mean, std = data.roles["normalisation"]["mean"][0], data.roles["normalisation"]["std"][0]
    for images, masks in data.train.batches(8):
        assert torch.equal((images[:, 0] * std + mean > 0.1).long(), masks)


def test_training_cuts_elsewhere_in_every_epoch_and_nothing_else_does(tmp_path: Path) -> None:
    data = load_data(f"{inria(tmp_path)}:size=32")
    epochs = [
        torch.cat([masks for _, masks in data.train.batches(8, seed=0, epoch=e, augment=True)]) for e in (0, 0, 1)
    ]
    assert torch.equal(epochs[0], epochs[1])
    assert not torch.equal(epochs[0], epochs[2])
    fixed = [torch.cat([masks for _, masks in data.control.batches(8)]) for _ in range(2)]
    assert torch.equal(*fixed)


def test_tiles_of_one_image_have_one_role(tmp_path: Path) -> None:
    data = load_data(f"{inria(tmp_path)}:size=32", control_size=6)
    images = {
        role: {*data.split(role).source.reader.places[data.split(role).positions, 0].tolist()}  # type: ignore[attr-defined]
        for role in ("train", "calibration", "control")
    }
    assert not images["train"] & images["control"]
    assert not images["train"] & images["calibration"]
    assert len(data.control) == 6


def test_uncompressed_tiffs_are_not_read_whole(tmp_path: Path) -> None:
    inria(tmp_path / "plain")
    inria(tmp_path / "packed", "tiff_lzw")
    name = "train/images/austin1.tif"
    plain, packed = tiles.map_pixels(tmp_path / "plain" / name), tiles.map_pixels(tmp_path / "packed" / name)
    assert isinstance(plain, np.memmap)
    assert not isinstance(packed, np.memmap)
    assert np.array_equal(plain, packed)  # type: ignore[arg-type]


def test_airs_layout(tmp_path: Path) -> None:
    for pool, count in (("train", 6), ("val", 2), ("test", 1)):
        for i in range(count):
            save(tmp_path / pool / "image" / f"c_{i}.tif", np.full((64, 64, 3), i, np.uint8), None)
            save(tmp_path / pool / "label" / f"c_{i}.tif", np.eye(64, dtype=np.uint8), None)
    data = load_data(f"{tmp_path}:size=32")
    assert data.roles["control"]["source"] == "val"
    assert len(data.control) == 8
    assert len(data.test) == 4


def test_what_does_not_fit_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"austin6\.tif is 70x70; it must be at least 256x256"):
        load_data(str(inria(tmp_path)))
    save(tmp_path / "train" / "gt" / "austin1.tif", np.zeros((3, 3), np.uint8), None)
    with pytest.raises(UserError, match=r"mask .*austin1\.tif is 3x3 and its image 70x70"):
        load_data(f"{tmp_path}:size=32")
    (tmp_path / "train" / "gt" / "austin1.tif").unlink()
    with pytest.raises(UserError, match=r"austin1\.tif has no mask"):
        load_data(f"{tmp_path}:size=32")
