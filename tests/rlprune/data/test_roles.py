from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlprune.data import ROLES, load_data
from rlprune.data.cutting import Cut, Pool, cut_roles
from rlprune.data.digits import _table
from rlprune.errors import UserError

DISJOINT = ("train", "calibration", "control", "test")


@settings(deadline=None)
@given(
    sizes=st.tuples(st.integers(20, 300), st.sampled_from([0, 30, 77]), st.sampled_from([0, 25])),
    seed=st.integers(0, 5),
    control_from=st.sampled_from([None, "train", "test"]),
    labelled=st.booleans(),
)
def test_roles_never_share_an_image_and_leave_none_out(
    sizes: tuple[int, int, int], seed: int, control_from: str | None, labelled: bool
) -> None:
    pools = [
        Pool(name, size, np.arange(size) % 4 if labelled else None) if size else None
        for name, size in zip(("train", "test", "val"), sizes, strict=True)
    ]
    assert pools[0] is not None
    roles = cut_roles(Cut(seed, control_from), *pools)  # type: ignore[arg-type]
    used = [(pool, int(i)) for role in DISJOINT for pool, index in [roles[role]] for i in index]
    assert len(set(used)) == len(used)
    left_out = sizes[2] if control_from == "train" and all(sizes) else 0  # val, where control is asked from train
    assert len(used) == sum(sizes) - left_out
    assert all(len(roles[role][1]) for role in DISJOINT)
    assert roles["train"][0] == roles["calibration"][0] == "train"
    # the published test set is the same for every seed, and holds the test role
    assert {*roles["test"][1]} <= {*roles["whole_test"][1]}
    again = cut_roles(Cut(seed + 1, control_from), *pools)  # type: ignore[arg-type]
    assert np.array_equal(roles["whole_test"][1], again["whole_test"][1])


def test_control_comes_out_of_held_out_images_where_the_network_saw_the_training_set() -> None:
    roles = cut_roles(Cut(0, "test"), Pool("train", 50_000), Pool("test", 10_000))
    assert roles["control"][0] == roles["test"][0] == "test"
    assert len(roles["control"][1]) == len(roles["test"][1]) == 5000
    assert len(roles["calibration"][1]) == 512
    assert len(roles["train"][1]) == 49_488


def test_a_val_folder_beside_a_test_folder_is_control() -> None:
    for control_from in (None, "test"):
        roles = cut_roles(Cut(0, control_from), Pool("train", 100), Pool("test", 30), Pool("val", 20))
        assert roles["control"][0] == "val"
    asked = cut_roles(Cut(0, "train", control_size=40), Pool("train", 100), Pool("test", 30), Pool("val", 20))
    assert asked["control"][0] == "train" and len(asked["control"][1]) == 40
    alone = cut_roles(Cut(0, "test"), Pool("train", 100), None, Pool("val", 20))
    assert alone["control"][0] == alone["test"][0] == "val"


def test_cuts_are_balanced_over_classes() -> None:
    labels = np.repeat([0, 1, 2], [700, 200, 100])
    roles = cut_roles(Cut(0), Pool("train", 1000, labels), Pool("test", 10))
    counts = np.bincount(labels[roles["control"][1]], minlength=3) / len(roles["control"][1])
    assert np.allclose(counts, [0.7, 0.2, 0.1], atol=0.01)


def test_equal_seeds_cut_equally_and_others_do_not() -> None:
    first, second, third = load_data("digits"), load_data("digits"), load_data("digits", seed=1)
    assert first.fingerprint == second.fingerprint != third.fingerprint
    assert first.train.fingerprint() == second.train.fingerprint() != third.train.fingerprint()
    assert first.whole_test.fingerprint() == third.whole_test.fingerprint()
    json.dumps(first.to_json(), allow_nan=False)
    assert {role: first.roles[role]["size"] for role in ROLES} == {role: len(first.split(role)) for role in ROLES}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"control_size": 0}, r"control size is 0; it must lie in \[1, "),
        ({"control_size": 2000}, r"control size is 2000; it must lie in \[1, 1436\]"),
        ({"calibration_size": 1500}, "calibration size is 1500"),
        ({"control_from": "validation"}, "must be 'train' or 'test'"),
        ({"control_from": "test", "control_size": 359}, r"\[1, 358\]"),
    ],
)
def test_sizes_that_leave_nothing_for_other_roles_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_data("digits", **options)  # type: ignore[arg-type]


def test_roles_by_name_and_use_by_role() -> None:
    data = load_data("digits")
    with pytest.raises(UserError, match="did you mean 'control'"):
        data.split("contol")
    assert data.train.require("train") is data.train
    with pytest.raises(UserError, match="role 'test'; only train may be used"):
        data.test.require("train")


def test_unknown_data() -> None:
    with pytest.raises(UserError, match="no such data: nowhere"):
        load_data("nowhere")
    with pytest.raises(UserError, match="unknown kind"):
        load_data(str(Path(__file__).parents[3] / "pyproject.toml"))
    with pytest.raises(UserError, match="did you mean 'CIFAR10'"):
        load_data("torchvision:CIFAR11")
    with pytest.raises(UserError, match="no ImageNet in"):
        load_data("torchvision:ImageNet", root="/nowhere")


def test_the_digits_are_scikit_learns(monkeypatch: pytest.MonkeyPatch) -> None:
    from sklearn import datasets

    digits, table = datasets.load_digits(), _table()
    np.testing.assert_array_equal(table, np.column_stack([digits.data, digits.target]))
    monkeypatch.setattr(Path, "is_file", lambda self: False)  # a release that keeps them elsewhere
    np.testing.assert_array_equal(_table(), table)
