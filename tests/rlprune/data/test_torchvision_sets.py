from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torchvision import datasets

from rlprune.data import load_data
from rlprune.errors import UserError


class Fake:
    """What torchvision's classes look like, without their files."""

    grey = True

    def __init__(self, root: str, train: bool, download: bool) -> None:
        shape = (40, 28, 28) if self.grey else (40, 32, 32, 3)
        self.data: Any = np.full(shape, int(train), dtype=np.uint8)
        if self.grey:
            self.data = torch.from_numpy(self.data)
        self.targets: Any = torch.arange(40) % 4 if self.grey else (np.arange(40) % 4).tolist()
        self.classes = list("abcd")


@pytest.mark.parametrize("name", ["MNIST", "FashionMNIST", "CIFAR10", "CIFAR100"])
def test_sets_become_roles(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    grey = "MNIST" in name
    monkeypatch.setattr(datasets, name, type("Set", (Fake,), {"grey": grey}))
    data = load_data(f"torchvision:{name}")
    assert data.input_shape == ((1, 28, 28) if grey else (3, 32, 32))
    assert data.classes == ("a", "b", "c", "d")
    assert len(data.whole_test) == 40


def test_a_failing_download_says_where_to_put_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("Error downloading: no route to host\nmore")

    monkeypatch.setattr(datasets, "MNIST", fail)
    with pytest.raises(UserError, match=f"cannot get MNIST .*put torchvision's files into {tmp_path}") as caught:
        load_data("torchvision:MNIST", root=tmp_path)
    assert "\n" not in str(caught.value)
