from __future__ import annotations

import numpy as np
import pytest
import torch

from rlprune.data import DataSplits, load_data
from rlprune.data.augmentation import shift_and_mirror
from rlprune.errors import UserError


@pytest.fixture(scope="module")
def data() -> DataSplits:
    return load_data("digits")


def joined(batches: object) -> tuple[torch.Tensor, torch.Tensor]:
    inputs, targets = zip(*batches, strict=True)  # type: ignore[call-overload]
    return torch.cat(inputs), torch.cat(targets)


def test_fixed_order_is_the_same_whatever_the_batch_size(data: DataSplits) -> None:
    for split in (data.control, data.train):
        first, second = joined(split.batches(7)), joined(split.batches(500))
        assert torch.equal(first[0], second[0])
        assert torch.equal(first[1], second[1])
        assert len(first[1]) == len(split)
        assert first[0].dtype == torch.float32
        assert first[1].dtype == torch.int64


def test_images_are_normalised_by_the_train_role(data: DataSplits) -> None:
    images, _ = joined(data.train.batches(100))
    assert abs(float(images.mean())) < 1e-3
    assert float(images.std()) == pytest.approx(1.0, abs=1e-3)


def test_shuffles_and_augmentations_follow_seed_and_epoch(data: DataSplits) -> None:
    def run(seed: int, epoch: int, augment: bool) -> tuple[torch.Tensor, torch.Tensor]:
        return joined(data.train.batches(64, seed=seed, epoch=epoch, augment=augment))

    for augment in (False, True):
        first = run(0, 0, augment)
        assert all(torch.equal(a, b) for a, b in zip(first, run(0, 0, augment), strict=True))
        assert not torch.equal(first[1], run(0, 1, augment)[1])
        assert not torch.equal(first[1], run(1, 0, augment)[1])
    assert not torch.equal(run(0, 0, False)[0], run(0, 0, True)[0])
    assert torch.equal(run(0, 0, False)[1], run(0, 0, True)[1])


def test_shuffled_epochs_see_every_image_but_a_lonely_last_one(data: DataSplits) -> None:
    labels = joined(data.train.batches(64, seed=3))[1]
    assert torch.equal(labels.sort().values, joined(data.train.batches(64))[1].sort().values)
    sizes = [len(targets) for _, targets in data.train.first(65).batches(64, seed=3)]
    assert sizes == [64]
    assert [len(targets) for _, targets in data.train.first(65).batches(64)] == [64, 1]


def test_subsets_are_drawn_once_for_a_seed(data: DataSplits) -> None:
    a, b, c = data.train.subset(50, 0), data.train.subset(50, 0), data.train.subset(50, 1)
    assert np.array_equal(a.positions, b.positions)
    assert not np.array_equal(a.positions, c.positions)
    assert {*a.positions} <= {*data.train.positions}
    assert len(data.train.subset(10**6)) == len(data.train)
    with pytest.raises(UserError, match="at least 1"):
        data.train.subset(0)
    with pytest.raises(UserError, match="batch size is 0"):
        data.train.batches(0)


def test_augmentation_moves_whole_images_by_at_most_the_padding() -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.zeros(200, 1, 11, 11)
    images[:, :, 5, 3] = 1.0
    moved = shift_and_mirror(images, generator, padding=2, mirror=False)
    places = moved[:, 0].nonzero()
    assert len(places) == 200
    assert {*places[:, 1].tolist()} == {3, 4, 5, 6, 7}
    assert {*places[:, 2].tolist()} == {1, 2, 3, 4, 5}
    mirrored = shift_and_mirror(images, generator, padding=0, mirror=True)[:, 0].nonzero()[:, 2].tolist()
    assert {*mirrored} == {3, 7}


def test_characters_are_never_mirrored(data: DataSplits) -> None:
    assert not data.train.source.mirror  # type: ignore[attr-defined]
