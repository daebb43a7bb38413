"""Folders of `.npy` and `.wav` files, CSV files of paths and labels, and what `dataset.yml` says."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import wavfile

from rlprune.data import load_data
from rlprune.data.signals import read_signal
from rlprune.errors import UserError


def sounds(root: Path, samples: Sequence[int] = (64,) * 8, dtype: type = np.int16) -> Path:
    """Files of a high and a low tone."""
    for name, pitch in (("low", 2.0), ("high", 20.0)):
        (root / name).mkdir(parents=True)
        for number, length in enumerate(samples):
            wave = np.sin(pitch * np.arange(length) / 10 + number)
            wavfile.write(root / name / f"{number}.wav", 8000, (wave * np.iinfo(dtype).max).astype(dtype))
    return root


def table(path: Path, heads: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([heads, *rows])
    return str(path)


def pictures(folder: Path, count: int = 12) -> list[str]:
    rng = np.random.default_rng(0)
    for number in range(count):
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(folder / f"{number}.png")
    return [f"{number}.png" for number in range(count)]


@pytest.mark.parametrize("pools", [(), ("train", "val"), ("train", "val", "test")])
def test_sounds_are_signals_of_one_channel(tmp_path: Path, pools: tuple[str, ...]) -> None:
    for pool in pools or ("",):
        sounds(tmp_path / pool)
    data = load_data(str(tmp_path))
    assert data.classes == ("high", "low") and data.input_shape == (1, 64)
    inputs, targets = next(iter(data.train.batches(99)))
    assert inputs.dtype == torch.float32 and set(targets.tolist()) == {0, 1}
    assert data.roles["control"]["source"] == ("val" if len(pools) == 3 else "train")


def test_lengths_that_differ_are_cut_or_filled_up_on_request(tmp_path: Path) -> None:
    sounds(tmp_path, samples=(64, 64, 60, 70, 64, 64))
    with pytest.raises(UserError, match="--size N cuts or fills up"):
        load_data(str(tmp_path))
    assert load_data(str(tmp_path), size=50).input_shape == (1, 50)
    assert read_signal(tmp_path / "low" / "2.wav", 64)[0, 60:].tolist() == [0.0] * 4


def test_every_kind_of_number_is_a_sound_between_minus_one_and_one(tmp_path: Path) -> None:
    wave = np.sin(np.arange(100))
    kinds = {"int16": wave * 32767, "int32": wave * 2147483647, "uint8": wave * 127 + 128, "float32": wave}
    for dtype, samples in kinds.items():
        wavfile.write(tmp_path / f"{dtype}.wav", 8000, samples.astype(dtype))
        np.testing.assert_allclose(read_signal(tmp_path / f"{dtype}.wav")[0], wave, atol=0.02)
    wavfile.write(tmp_path / "stereo.wav", 8000, np.stack([wave, -wave], 1).astype(np.float32))
    assert read_signal(tmp_path / "stereo.wav").shape == (2, 100)


@pytest.mark.parametrize(
    ("shape", "found"),
    [
        ((30,), (1, 30)),
        ((3, 24), (3, 24)),
        ((12, 96), (12, 96)),
        ((3, 23), (1, 3, 23)),
        ((8, 9), (1, 8, 9)),
        ((8, 9, 3), (3, 8, 9)),
        ((2, 5, 6, 7), (2, 5, 6, 7)),
    ],
)
def test_arrays_of_any_rank(tmp_path: Path, shape: tuple[int, ...], found: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for number in range(6):
            np.save(tmp_path / name / f"{number}.npy", rng.random(shape))
    assert load_data(str(tmp_path)).input_shape == found


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (np.full(30, np.nan), "NaN"),
        (np.array(["text"] * 30), "holds <U4"),
        (np.zeros(31), "of shape .1, 31., and .* of shape .1, 30."),
        (b"no array", "damaged"),
    ],
)
def test_a_file_that_is_none_is_named(tmp_path: Path, content: object, message: str) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for number in range(6):
            np.save(tmp_path / name / f"{number}.npy", np.zeros(30))
    bad = tmp_path / "b" / "5.npy"
    bad.write_bytes(content) if isinstance(content, bytes) else np.save(bad, content)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=message) as error:
        load_data(str(tmp_path))
    assert "5.npy" in str(error.value)


def test_a_table_of_images_with_the_cut_given(tmp_path: Path) -> None:
    rows = [(name, ("cat", "dog")[n % 2], "test" if n > 8 else "train") for n, name in enumerate(pictures(tmp_path))]
    data = load_data(table(tmp_path / "data.csv", ("path", "label", "split"), rows))
    assert data.classes == ("cat", "dog") and data.input_shape == (3, 16, 16)
    assert len(data.test) == 3 and data.roles["test"]["source"] == "test"


def test_labels_that_are_numbers_are_in_numeric_order(tmp_path: Path) -> None:
    rows = [(name, (2, 10)[n % 2]) for n, name in enumerate(pictures(tmp_path))]
    assert load_data(table(tmp_path / "data.csv", ("path", "label"), rows)).classes == ("2", "10")


def test_other_tasks_take_every_column_as_a_number(tmp_path: Path) -> None:
    rows = [(name, n, -n) for n, name in enumerate(pictures(tmp_path))]
    data = load_data(table(tmp_path / "data.csv", ("path", "x", "y"), rows), task="regression")
    assert data.classes == ("x", "y") and data.task == "regression"
    targets = torch.cat([targets for _, targets in data.train.batches(4)])
    assert targets.dtype == torch.float32 and torch.equal(targets[:, 0], -targets[:, 1])


def test_a_table_of_sounds(tmp_path: Path) -> None:
    sounds(tmp_path / "files")
    rows = [(f"files/{kind}/{n}.wav", kind) for kind in ("low", "high") for n in range(8)]
    assert load_data(table(tmp_path / "data.csv", ("path", "label"), rows)).input_shape == (1, 64)


@pytest.mark.parametrize(
    ("heads", "rows", "message"),
    [
        (("file", "label"), [("0.png", "a")], "has the columns file, label"),
        (("path", "label"), [], "lists no file"),
        (("path", "label"), [("0.png",)], "line 2"),
        (("path", "label"), [("zero.png", "a")], "no such file"),
        (("path", "label"), [("0.txt", "a")], "no image"),
        (("path", "label", "split"), [("0.png", "a", "dev")], "split is 'dev'"),
        (("path", "label", "split"), [("0.png", "a", "test")], "whose split is train"),
        (("path", "kind"), [("0.png", "a")], "no column 'label'"),
    ],
)
def test_a_table_that_is_none_says_why(
    tmp_path: Path, heads: Sequence[str], rows: Sequence[Sequence[object]], message: str
) -> None:
    pictures(tmp_path, 1)
    with pytest.raises(UserError, match=message):
        load_data(table(tmp_path / "data.csv", heads, rows))


def test_a_folder_says_the_order_of_its_classes(tmp_path: Path) -> None:
    sounds(tmp_path)
    (tmp_path / "dataset.yml").write_text("classes: [low, middle, high]\nnormalise: none\n")
    data = load_data(str(tmp_path))
    assert data.classes == ("low", "middle", "high")
    assert {int(label) for _, labels in data.train.batches(8) for label in labels} == {0, 2}
    (tmp_path / "dataset.yml").write_text("classes: [low]\n")
    with pytest.raises(UserError, match=r"high is a class that dataset.yml does not list"):
        load_data(str(tmp_path))


@pytest.mark.parametrize(("delimiter", "encoding"), [(";", "utf-8"), ("\t", "utf-8"), (",", "utf-8-sig")])
def test_tables_as_spreadsheets_save_them(tmp_path: Path, delimiter: str, encoding: str) -> None:
    rows = [f'"{name}"{delimiter}{"ab"[n % 2]}' for n, name in enumerate(pictures(tmp_path))]
    (tmp_path / "data.csv").write_text("\n".join([f"path{delimiter}label", *rows]), encoding=encoding)
    assert load_data(str(tmp_path / "data.csv")).classes == ("a", "b")


def test_numbers_that_are_missing_are_not_known(tmp_path: Path) -> None:
    rows = [(name, n, "" if n % 3 else n) for n, name in enumerate(pictures(tmp_path))]
    file = table(tmp_path / "data.csv", ("path", "x", "y"), rows)
    targets = torch.cat([targets for _, targets in load_data(file, task="regression").train.batches(4)])
    assert targets[:, 1].isnan().any() and not targets[:, 0].isnan().any()
    with pytest.raises(UserError, match="holds NaN"):
        load_data(file, task="heads:0=regression;1=regression")


def test_a_table_that_is_no_utf8_is_told_to_become_it(tmp_path: Path) -> None:
    (tmp_path / "data.csv").write_text("path,label\n", encoding="utf-16")
    with pytest.raises(UserError, match="save it as CSV in UTF-8"):
        load_data(str(tmp_path / "data.csv"))


@pytest.mark.parametrize("shape", [(8, 9), (4, 5, 6)])
def test_masks_lie_in_arrays_too(tmp_path: Path, shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (30, *([1] if len(shape) == 3 else []), *shape), dtype=np.uint8)
    masks = rng.integers(0, 3, (30, *shape), dtype=np.uint8)
    masks[:, 0] = 255
    np.savez(tmp_path / "m.npz", train=images, train_labels=masks)
    data = load_data(str(tmp_path / "m.npz"), task="segmentation")
    assert data.classes == ("0", "1", "2") and data.task == "segmentation"
    (inputs, targets), *_ = data.train.batches(4, seed=0, augment=True)
    assert inputs.shape[2:] == shape and targets.dtype == torch.int64 and targets.shape[1:] == shape
    np.savez(tmp_path / "m.npz", train=images, train_labels=masks / 2)
    with pytest.raises(UserError, match="segmentation needs the class of every pixel"):
        load_data(str(tmp_path / "m.npz"), task="segmentation")
