"""Files that are no images, or images that nobody should open, are one line that names them, at once."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from rlprune.data import load_data
from rlprune.errors import UserError


def classes(root: Path) -> Path:
    """Twenty small images of two classes; the folder of the first class."""
    for number in range(20):
        (root / f"c{number % 2}").mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8), number, np.uint8)).save(root / f"c{number % 2}" / f"{number:02d}.png")
    return root / "c0"


def look(root: Path) -> Any:
    return next(iter(load_data(str(root)).train.batches(4)))


def test_a_pipe_or_a_broken_link_is_named(tmp_path: Path) -> None:
    pipe, link = classes(tmp_path / "pipe") / "pipe.png", classes(tmp_path / "link") / "link.png"
    os.mkfifo(pipe)
    link.symlink_to("nowhere.png")
    for path in (pipe, link):
        with pytest.raises(UserError, match=f"{path.name}.* is no file"):
            look(path.parent.parent)


def test_a_name_that_cannot_be_written_down(tmp_path: Path) -> None:
    folder = os.fsencode(classes(tmp_path))
    try:
        os.rename(folder + b"/00.png", folder + b"/\xff\xfe.png")
    except OSError:
        pytest.skip("this disk has no such names")
    with pytest.raises(UserError, match="not UTF-8"):
        look(tmp_path)


def test_an_image_beyond_pillows_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    classes(tmp_path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)  # 64 pixels are more than twice that
    with pytest.raises(UserError, match=r"cannot read image .*0\d\.png .*decompression"):
        look(tmp_path)


def test_an_image_that_is_a_line(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((1, 60_000), np.uint8)).save(classes(tmp_path) / "line.png")
    with pytest.raises(UserError, match=r"line\.png .*60000x1 pixels"):
        for role in ("train", "calibration", "control", "test"):
            list(load_data(str(tmp_path)).split(role).batches(20))


def test_a_label_that_is_no_class(tmp_path: Path) -> None:
    labels = np.arange(80) % 4
    labels[3] = 10**9
    np.savez(tmp_path / "data.npz", train=np.zeros((80, 8, 8), np.uint8), train_labels=labels)
    with pytest.raises(UserError, match=r"data\.npz.* 1000000000"):
        load_data(str(tmp_path / "data.npz"))
