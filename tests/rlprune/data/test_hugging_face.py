"""Hugging Face data sets on disk are read like any other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rlprune.data import load_data
from rlprune.errors import UserError

datasets = pytest.importorskip("datasets")
pytestmark = pytest.mark.filterwarnings("default")  # of the packages below it
DRAW = np.random.default_rng(0)


def made(n: int, **columns) -> object:
    images = DRAW.integers(0, 256, (n, 12, 12, 3), np.uint8)
    features = datasets.Features(
        {
            "picture": datasets.Image(),
            "kind": datasets.ClassLabel(names=["cat", "dog"]),
            "note": datasets.Value("string"),
        }
    )
    values = {"picture": list(images), "kind": [i % 2 for i in range(n)], "note": ["x"] * n, **columns}
    return datasets.Dataset.from_dict(values, features=features)


def test_the_splits_of_a_set_are_the_pools(tmp_path: Path) -> None:
    given = {"train": made(40), "validation": made(10), "test": made(20)}
    datasets.DatasetDict(given).save_to_disk(str(tmp_path / "pets"))
    data = load_data("pets", root=tmp_path, normalise="none")
    assert data.classes == ("cat", "dog") and data.input_shape == (3, 12, 12)
    assert (len(data.control), len(data.test)) == (10, 20) and len(data.train) + len(data.calibration) == 40
    images, labels = next(data.test.batches(20))
    expected = np.stack([np.asarray(one["picture"]) for one in given["test"]]).transpose(0, 3, 1, 2) / 255
    assert np.allclose(images.numpy(), expected, atol=1e-6) and labels.tolist() == [0, 1] * 10


def test_one_set_alone_is_cut_here(tmp_path: Path) -> None:
    made(60).save_to_disk(str(tmp_path / "one"))
    data = load_data(str(tmp_path / "one"), size=8, channels=1)
    assert data.input_shape == (1, 8, 8)
    assert sum(len(data.split(role)) for role in ("train", "calibration", "control", "test")) == 60


def test_what_it_lacks_is_named(tmp_path: Path) -> None:
    made(20).remove_columns("picture").save_to_disk(str(tmp_path / "blind"))
    with pytest.raises(UserError, match=r"kind \(ClassLabel\), note \(Value\); it must have one of Image"):
        load_data(str(tmp_path / "blind"))
    datasets.DatasetDict({"test": made(20)}).save_to_disk(str(tmp_path / "half"))
    with pytest.raises(UserError, match="has the splits test; one must be called train"):
        load_data(str(tmp_path / "half"))
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "dataset_info.json").write_text("{")
    with pytest.raises(UserError, match="torn"):
        load_data(str(tmp_path / "torn"))
