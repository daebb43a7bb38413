from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from rlprune.data import load_data, samples
from rlprune.data.splits import DataSplits
from rlprune.errors import UserError


def make(
    root: Path, *, size: tuple[int, int] = (20, 24), mode: str = "RGB", count: int = 12, suffix: str = "png"
) -> Path:
    generator = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (root / name).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            shape = (*size, 3) if mode == "RGB" else size
            pixels = generator.integers(0, 256, shape, dtype=np.uint8)
            Image.fromarray(pixels, mode if mode == "L" else None).save(root / name / f"{i}.{suffix}")
    return root


def test_one_folder_is_cut_by_us(tmp_path: Path) -> None:
    data = load_data(str(make(tmp_path)))
    assert data.classes == ("cat", "dog")
    assert data.input_shape == (3, 20, 24)
    sizes = [len(data.split(role)) for role in ("train", "calibration", "control", "test")]
    assert sum(sizes) == 24
    inputs, targets = next(iter(data.train.batches(64)))
    assert inputs.shape == (sizes[0], 3, 20, 24)
    assert {*targets.tolist()} == {0, 1}


def test_train_val_test_folders_and_the_layout_of_imagenet(tmp_path: Path) -> None:
    for pool in ("train", "val"):
        make(tmp_path / pool)
    assert load_data(str(tmp_path), control_from="test").roles["control"]["source"] == "val"
    assert load_data(str(tmp_path)).roles["test"] == {
        **load_data(str(tmp_path)).roles["test"],
        "source": "val",
        "size": 24,
    }
    make(tmp_path / "test", count=5)
    data = load_data(str(tmp_path))
    assert data.roles["control"]["source"] == "val"
    assert len(data.test) == 10
    assert load_data("torchvision:ImageNet", root=tmp_path).classes == ("cat", "dog")


def test_grey_images_have_one_channel_and_large_ones_are_cropped(tmp_path: Path) -> None:
    assert load_data(str(make(tmp_path / "grey", mode="L"))).input_shape == (1, 20, 24)
    large = make(tmp_path / "large", size=(150, 200), count=6, suffix="jpg")
    data = load_data(str(large))
    assert data.input_shape == (3, 224, 224)
    assert next(iter(data.control.batches(2)))[0].shape[1:] == (3, 224, 224)
    assert load_data(f"{large}:size=64").input_shape == (3, 64, 64)
    with pytest.raises(UserError, match="did you mean 'size'"):
        load_data(f"{large}:sise=64")
    with pytest.raises(UserError, match="it must be a int"):
        load_data(f"{large}:size=big")
    with pytest.raises(UserError, match="image size is 3"):
        load_data(f"{large}:size=3")


def test_a_folder_may_be_called_like_an_option(tmp_path: Path) -> None:
    assert load_data(str(make(tmp_path / "a:size=9"))).input_shape == (3, 20, 24)


@pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")
def test_large_folders_stream_and_give_the_same_fixed_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = str(make(tmp_path))
    small = load_data(root)
    monkeypatch.setattr(samples, "MEMORY_LIMIT", 0)
    monkeypatch.setattr(samples.os, "cpu_count", lambda: 1)
    streamed = load_data(root)
    for role in ("train", "control"):
        pairs = zip(small.split(role).batches(5), streamed.split(role).batches(5), strict=True)
        for (a, labels_a), (b, labels_b) in pairs:
            assert torch.equal(a, b)
            assert torch.equal(labels_a, labels_b)
    runs = [list(streamed.train.batches(4, seed=0, epoch=e, augment=True)) for e in (1, 1, 2)]
    assert all(torch.equal(a[0], b[0]) for a, b in zip(runs[0], runs[1], strict=True))
    assert not torch.equal(runs[0][0][0], runs[2][0][0])


@pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")
@pytest.mark.parametrize("limit", [0, 2**30])
def test_a_damaged_image_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    monkeypatch.setattr(samples, "MEMORY_LIMIT", limit)
    monkeypatch.setattr(samples.os, "cpu_count", lambda: 1)
    root = make(tmp_path)
    for path in root.rglob("*.png"):
        path.write_bytes(path.read_bytes()[:200])
    data = load_data(str(root))  # headers are whole
    with pytest.raises(UserError, match=r"cannot read image .*\.png") as caught:
        list(data.train.batches(8))
    assert "\n" not in str(caught.value)
    (root / "cat" / "0.png").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"cannot read image .*cat.0\.png"):
        load_data(str(root))


def test_folders_without_classes_or_images(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no images in a layout known here"):
        load_data(str(tmp_path))
    make(tmp_path / "train")
    (tmp_path / "val").mkdir()
    with pytest.raises(UserError, match="val holds no image"):
        load_data(str(tmp_path))
    make(tmp_path / "val")
    (tmp_path / "val" / "cat").rename(tmp_path / "val" / "cow")
    with pytest.raises(UserError, match="cow is a class that the training folder has not"):
        load_data(str(tmp_path))


def pixels(data: DataSplits) -> torch.Tensor:
    return next(iter(data.control.batches(4)))[0]


def test_images_are_normalised_as_asked_for(tmp_path: Path) -> None:
    root = str(make(tmp_path))
    usual, plain = pixels(load_data(root)), pixels(load_data(root, normalise="none"))
    assert float(plain.min()) >= 0 and float(plain.max()) <= 1
    assert torch.equal(pixels(load_data(root, normalise="imagenet")), usual)
    assert torch.allclose(pixels(load_data(root, normalise="0.5:0.25")), (plain - 0.5) / 0.25, atol=1e-6)
    each = pixels(load_data(root, normalise="0.1,0.2,0.3:1,1,2"))
    shift, scale = (torch.tensor(values).view(3, 1, 1) for values in ([0.1, 0.2, 0.3], [1.0, 1.0, 2.0]))
    assert torch.allclose(each, (plain - shift) / scale, atol=1e-6)
    assert load_data(root, normalise="0.5:0.25").fingerprint != load_data(root).fingerprint


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"normalise": "imagnet"}, "MEAN:STD as in 0.5:0.25"),
        ({"normalise": "0.5:0"}, "standard deviation must be above 0"),
        ({"normalise": "1,2:1"}, "mean must be one finite number, or 3"),
        ({"normalise": "nan:1"}, "mean must be one finite number"),
        ({"channels": 1, "normalise": "imagenet"}, "it is for colour images"),
        ({"channels": 2}, "must be 1 .grey. or 3 .colour."),
        ({"size": 3}, "image size is 3; it must be at least 8"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        load_data(str(make(tmp_path)), **options)
    assert "\n" not in str(caught.value)


def test_size_and_channels_are_options_of_their_own(tmp_path: Path) -> None:
    root = str(make(tmp_path))
    assert load_data(root, size=16, channels=1).input_shape == (1, 16, 16)
    grey = str(make(tmp_path / "grey", mode="L"))
    assert load_data(grey, channels=3).input_shape == (3, 20, 24)


def test_a_folder_says_how_it_is_read(tmp_path: Path) -> None:
    root = make(tmp_path)
    (root / "dataset.yml").write_text("normalise: none\nsize: 16\n")
    assert load_data(str(root)).input_shape == (3, 16, 16) and float(pixels(load_data(str(root))).min()) >= 0
    assert load_data(str(root), size=24).input_shape == (3, 24, 24), "what is asked for goes first"
    for text, message in {
        "sise: 3": "did you mean 'size'",
        "size: big": "must be a whole number",
        "[": "is not YAML",
    }.items():
        (root / "dataset.yml").write_text(text)
        with pytest.raises(UserError, match=message):
            load_data(str(root))
