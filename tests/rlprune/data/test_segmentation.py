from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from rlprune.data import load_data, samples
from rlprune.errors import UserError


def make(root: Path, count: int = 16, size: tuple[int, int] = (20, 24), top: int = 3) -> Path:
    generator = np.random.default_rng(0)
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for i in range(count):
        Image.fromarray(generator.integers(0, 256, (*size, 3), dtype=np.uint8)).save(root / "images" / f"{i:02}.png")
        mask = generator.integers(0, top, size, dtype=np.uint8)
        mask[0, 0] = 255
        Image.fromarray(mask).save(root / "masks" / f"{i:02}.png")
    return root


def test_pools_and_classes(tmp_path: Path) -> None:
    for pool, count in (("train", 16), ("val", 5), ("test", 4)):
        make(tmp_path / pool, count)
    data = load_data(str(tmp_path))
    assert data.task == "segmentation"
    assert data.classes == ("0", "1", "2")
    assert data.input_shape == (3, 20, 24)
    assert [len(data.split(role)) for role in ("train", "calibration", "control", "test")] == [14, 2, 5, 4]
    (tmp_path / "classes.txt").write_text("sky\nroad\ntree\ncar\n")
    assert load_data(str(tmp_path)).classes == ("sky", "road", "tree", "car")
    images, masks = next(iter(data.control.batches(2)))
    assert images.shape == (2, 3, 20, 24)
    assert images.dtype == torch.float32
    assert masks.shape == (2, 20, 24)
    assert masks.dtype == torch.int64
    assert {*masks.unique().tolist()} == {0, 1, 2, 255}
    (tmp_path / "classes.txt").write_text("sky\n")
    with pytest.raises(UserError, match="names 1 classes"):
        load_data(str(tmp_path))


def test_masks_of_palettes_and_bits_are_read_by_index(tmp_path: Path) -> None:
    make(tmp_path, top=2)
    for i, path in enumerate(sorted((tmp_path / "masks").iterdir())):
        values = np.asarray(Image.open(path)) % 2
        if i % 2:
            Image.fromarray(values.astype(bool)).save(path)
        else:
            image = Image.fromarray(values.astype(np.uint8), "L")
            image.putpalette([200, 10, 10, 3, 3, 250])
            image.save(path)
    data = load_data(str(tmp_path))
    assert data.classes == ("0", "1")
    assert {*torch.cat([masks for _, masks in data.train.batches(3)]).unique().tolist()} == {0, 1}


def test_augmentation_moves_image_and_mask_together(tmp_path: Path) -> None:
    make(tmp_path)
    for path in (tmp_path / "masks").iterdir():  # the mask is told by the image's red channel
        red = (np.arange(24)[None].repeat(20, 0) // 6).astype(np.uint8)
        Image.fromarray(red % 3).save(path)
        Image.fromarray(np.stack([red * 50] * 3, axis=2)).save(tmp_path / "images" / path.name)
    data = load_data(str(tmp_path))
    mean, std = data.roles["normalisation"]["mean"][0], data.roles["normalisation"]["std"][0]
    changed = 0
    for images, masks in data.train.batches(4, seed=0, augment=True):
        red = ((images[:, 0] * std + mean) * 255 / 50).round().long() % 3
        assert float((red == masks).float().mean()) > 0.85  # interpolation blurs the edges
        changed += int((masks[:, 0] != masks.new_tensor(np.arange(24) // 6 % 3)).any(1).sum())
    assert changed > 3
    first = list(data.train.batches(4, seed=0, epoch=1, augment=True))
    again = list(data.train.batches(4, seed=0, epoch=1, augment=True))
    assert all(torch.equal(a[0], b[0]) and torch.equal(a[1], b[1]) for a, b in zip(first, again, strict=True))


@pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")
def test_large_sets_stream_and_give_the_same_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = str(make(tmp_path))
    small = load_data(root)
    expected = [*small.train.batches(4), *small.train.batches(4, seed=0, augment=True), *small.control.batches(4)]
    monkeypatch.setattr(samples, "MEMORY_LIMIT", 0)
    monkeypatch.setattr(samples.os, "cpu_count", lambda: 1)
    large = load_data(root)
    found = [*large.train.batches(4), *large.train.batches(4, seed=0, augment=True), *large.control.batches(4)]
    for (a, b), (c, d) in zip(expected, found, strict=True):
        assert torch.equal(a, c)
        assert torch.equal(b, d)
    (tmp_path / "images" / "00.png").write_bytes(b"")
    with pytest.raises(UserError, match="cannot read image") as caught:
        for split in (large.train, large.calibration, large.control, large.test):
            list(split.batches(4))
    assert "\n" not in str(caught.value)


def test_images_of_other_sizes_are_brought_to_one(tmp_path: Path) -> None:
    make(tmp_path, 8)
    big = make(tmp_path / "big", 1, (50, 40))
    for folder in ("images", "masks"):
        (big / folder / "00.png").rename(tmp_path / folder / "99.png")
    assert load_data(str(tmp_path)).input_shape == (3, 256, 256)
    data = load_data(f"{tmp_path}:size=32")
    assert next(iter(data.train.batches(8)))[1].shape[1:] == (32, 32)


def read_all(root: Path) -> None:
    data = load_data(str(root))
    for role in ("train", "calibration", "control", "test"):
        list(data.split(role).batches(8))


def test_masks_that_are_wrong_are_named(tmp_path: Path) -> None:
    make(tmp_path)
    (tmp_path / "classes.txt").write_text("a\nb\n")
    with pytest.raises(UserError, match=r"mask .*\.png holds 2; values must lie in \[0, 1\]"):
        read_all(tmp_path)
    (tmp_path / "classes.txt").unlink()
    wrong = tmp_path / "masks" / "03.png"
    Image.fromarray(np.zeros((5, 6), np.uint8)).save(wrong)
    with pytest.raises(UserError, match=r"mask .*03\.png is 6x5 and image 03\.png is 24x20; they must be of one size"):
        read_all(tmp_path)
    Image.fromarray(np.zeros((20, 24, 3), np.uint8)).save(wrong)
    with pytest.raises(UserError, match=r"03\.png is of mode RGB; it must be a PNG of class indices"):
        read_all(tmp_path)
    wrong.unlink()
    with pytest.raises(UserError, match=r"image .*03\.png has no mask; expected .*03\.png"):
        read_all(tmp_path)


def test_folders_without_classes_or_images(tmp_path: Path) -> None:
    make(tmp_path / "flat", top=1)
    with pytest.raises(UserError, match="hold no class but 0"):
        load_data(str(tmp_path / "flat"))
    for folder in ("images", "masks"):
        (tmp_path / "empty" / folder).mkdir(parents=True)
    with pytest.raises(UserError, match="holds no image"):
        load_data(str(tmp_path / "empty"))
    make(tmp_path / "half" / "train")
    (tmp_path / "half" / "val" / "images").mkdir(parents=True)
    with pytest.raises(UserError, match="must hold the folders images and masks"):
        load_data(str(tmp_path / "half"))


def test_real_sets(real_data: Path) -> None:
    camvid = load_data(str(real_data / "camvid"))
    assert (len(camvid.classes), camvid.input_shape, len(camvid.test)) == (11, (3, 240, 320), 233)
    aerial = load_data(str(real_data / "aerial"))
    assert aerial.classes == ("background", "building")
    assert {*torch.cat([masks for _, masks in aerial.test.batches(4)]).unique().tolist()} <= {0, 1, 255}
