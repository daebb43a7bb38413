from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rlprune.data import load_data
from rlprune.data.normalisation import IMAGENET_MEAN
from rlprune.errors import UserError


def arrays(n: int = 60, **changes: object) -> dict[str, object]:
    generator = np.random.default_rng(0)
    made: dict[str, object] = {
        "train": generator.integers(0, 256, (n, 12, 10, 3), dtype=np.uint8),
        "train_labels": np.arange(n) % 3,
        "test": generator.integers(0, 256, (20, 12, 10, 3), dtype=np.uint8),
        "test_labels": np.arange(20) % 3,
    }
    made.update(changes)
    return {key: value for key, value in made.items() if value is not None}


def written(folder: Path, **changes: object) -> str:
    np.savez(folder / "data.npz", **arrays(**changes))  # type: ignore[arg-type]
    return str(folder / "data.npz")


def test_layouts(tmp_path: Path) -> None:
    channels_last = load_data(written(tmp_path))
    first = np.moveaxis(arrays()["train"], 3, 1)  # type: ignore[call-overload]
    channels_first = load_data(written(tmp_path, train=first, test=first[:20]))
    assert channels_last.input_shape == channels_first.input_shape == (3, 12, 10)
    images = next(iter(channels_last.train.batches(60)))[0]
    assert images.equal(next(iter(channels_first.train.batches(60)))[0])
    grey = load_data(written(tmp_path, train=first[:, 0], test=first[:20, 0]))
    assert grey.input_shape == (1, 12, 10)
    floating = first.astype(np.float64) / 255
    same = load_data(written(tmp_path, train=floating, test=floating[:20]))
    assert np.allclose(next(iter(same.train.batches(60)))[0], images, atol=1e-5)
    without_test = load_data(written(tmp_path, test=None, test_labels=None))
    assert len(without_test.test) == 12
    named = load_data(written(tmp_path, classes=np.array(["a", "b", "c", "d"])))
    assert named.classes == ("a", "b", "c", "d")


def test_colour_images_get_the_constants_of_public_weights(tmp_path: Path) -> None:
    data = load_data(written(tmp_path))
    assert data.roles["normalisation"]["mean"] == list(IMAGENET_MEAN)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train": None}, "has no array 'train'; it has test, test_labels, train_labels"),
        ({"test_labels": None}, "only one of 'test' and 'test_labels'"),
        ({"train": np.zeros((60, 5), np.uint8)}, r"'train' has shape \(60, 5\)"),
        ({"train": np.zeros((60, 8, 8, 2), np.uint8)}, "with 1 or 3 channels"),
        ({"train": np.zeros((0, 8, 8), np.uint8), "train_labels": np.zeros(0, int)}, "'train' is empty"),
        ({"train": np.zeros((60, 8, 8), np.int64)}, "must be uint8"),
        ({"train": np.full((60, 8, 8), np.nan)}, "holds NaN"),
        ({"test": np.zeros((20, 8, 8, 3), np.uint8)}, "must be of one shape"),
        ({"train_labels": np.zeros(59, int)}, "expected 60 whole numbers"),
        ({"train_labels": np.zeros(60)}, "expected 60 whole numbers"),
        ({"train_labels": np.full(60, -1)}, "labels must be 0 or more"),
        ({"test_labels": np.full(20, 3)}, "holds 3, outside the 3 classes"),
        ({"classes": np.array(["a", "b"])}, "label 2 is outside the 2 classes"),
        ({"train": np.array([None] * 60)}, "cannot read .*damaged or not an .npz file of plain arrays"),
    ],
)
def test_bad_arrays_are_refused_in_one_line(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    path = written(tmp_path, **changes)
    with pytest.raises(UserError, match=message) as caught:
        load_data(path)
    assert "\n" not in str(caught.value)


def test_bad_files(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        load_data(str(tmp_path / "none.npz"))
    path = Path(written(tmp_path))
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(UserError, match="damaged"):
        load_data(str(path))
    path.write_bytes(b"")
    with pytest.raises(UserError, match="damaged"):
        load_data(str(path))
    with path.open("wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(UserError, match="single array"):
        load_data(str(path))


@pytest.mark.parametrize(
    ("shape", "targets", "task", "inputs"),
    [
        ((20, 50), np.arange(20.0), "regression", (1, 50)),
        ((20, 8, 8), np.ones((20, 3)), "multilabel", (1, 8, 8)),
        ((20, 8, 8, 3), np.full((20, 8, 8, 3), 255, np.uint8), "image", (3, 8, 8)),
        ((20, 1, 4, 8, 8), np.arange(20) % 2, "classification", (1, 4, 8, 8)),
    ],
)
def test_inputs_and_targets_of_any_rank(
    tmp_path: Path, shape: tuple[int, ...], targets: np.ndarray, task: str, inputs: tuple[int, ...]
) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, train=np.random.default_rng(0).random(shape), train_labels=targets)
    data = load_data(str(path), task=task)
    assert data.input_shape == inputs and data.task == task
    x, y = next(iter(data.train.batches(4, seed=0, augment=True)))
    assert x.shape == (4, *inputs) and len(y) == 4
    assert len(data.classes) == {"regression": 1, "multilabel": 3, "image": 3, "classification": 2}[task]
    if task == "image":
        assert y.shape == (4, 3, 8, 8) and float(y.max()) == 1.0


def test_signals_with_channels_say_so(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, train=np.random.default_rng(0).random((20, 3, 50)), train_labels=np.arange(20) % 2, layout="NCL")
    data = load_data(str(path))
    assert data.input_shape == (3, 50) and data.roles["normalisation"]["rule"].startswith("mean")
    with pytest.raises(UserError, match="expected 20 targets"):
        np.savez(path, train=np.zeros((20, 50)), train_labels=np.zeros(3))
        load_data(str(path), task="regression")
