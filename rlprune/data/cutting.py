"""Cutting a data set into roles: seeded, disjoint, recorded."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from rlprune.data.normalisation import choose_normalisation
from rlprune.data.splits import ROLES, DataSplits, Source, Split
from rlprune.errors import UserError
from rlprune.seeding import numpy_generator

CONTROL_LIMIT = 5000  # more changes an accuracy's standard error by less than half a point
CALIBRATION_LIMIT = 512  # batch-norm statistics settle at a few hundred images


@dataclass(frozen=True)
class Cut:
    """How data is read, and cut into roles.

    Attributes:
        seed: Of every draw but that of a missing test set, which is the same for all seeds.
        control_from: None takes the `val` images where there are some beside a test set, else training images.
            "train" keeps training images aside whatever else there is: the way to a larger control split where `val`
            is tiny; `val` is then left out. "test" is for a network that may have seen every training image: control
            is cut out of the held-out images (`val`, if there is one beside a test set) and `test` is the rest.
        control_size: None takes 30 % of the training images or half of the held-out ones, at most 5,000.
        calibration_size: None takes an eighth of the training images, at most 512.
        size: Side that images are brought to, or of the tiles that they are cut into; None chooses.
        channels: 1 reads images as grey, 3 as colour; None keeps what they are.
        normalise: As of `choose_normalisation`.
        classes: Names of the classes in the order of their indices; None takes them by name.
    """

    seed: int = 0
    control_from: str | None = None
    control_size: int | None = None
    calibration_size: int | None = None
    size: int | None = None
    channels: int | None = None
    normalise: str | None = None
    classes: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if self.control_from not in (None, "train", "test"):
            raise UserError(f"control_from is {self.control_from!r}; it must be 'train' or 'test', or be left out")
        if self.size is not None and self.size < 8:
            raise UserError(f"image size is {self.size}; it must be at least 8")
        if self.channels not in (None, 1, 3):
            raise UserError(f"channels is {self.channels}; it must be 1 (grey) or 3 (colour), or be left out")


@dataclass(frozen=True)
class Pool:
    """One file's or folder's worth of images before they get roles.

    Attributes:
        name: "train", "val" or "test".
        size: Number of images.
        labels: (size,) class indices to balance the cut by; None cuts without regard to targets.
        content: Hash of what it holds.
    """

    name: str
    size: int
    labels: np.ndarray | None = None
    content: str = ""


# Role -> (name of the pool, positions in it)
Positions = dict[str, tuple[str, np.ndarray]]


def cut_roles(cut: Cut, train: Pool, test: Pool | None = None, val: Pool | None = None) -> Positions:
    """Give every image a role.

    - Without a test pool, a fifth of the training images is the test set, the same for every seed.
    - With a `val` pool beside a test pool, `val` is the control split, unless `control_from` is "train".
    - A `val` pool alone is the test pool (ImageNet's layout).

    Raises:
        UserError: A pool is empty or a size leaves nothing for another role.
    """
    if test is None and val is not None:
        test, val = val, None
    for pool in (train, test, val):
        if pool is not None and pool.size == 0:
            raise UserError(f"the {pool.name} images are none; there must be at least one")
    order = _balanced_order(train, numpy_generator(cut.seed, "roles", train.name))
    if test is None:
        fixed = _balanced_order(train, numpy_generator(0, "test", train.name))
        held_out, test_name = np.sort(fixed[: max(1, train.size // 5)]), train.name
        order = order[~np.isin(order, held_out)]
        test_labels = None if train.labels is None else train.labels[held_out]
    else:
        held_out, test_name, test_labels = np.arange(test.size), test.name, test.labels
    roles: Positions = {"whole_test": (test_name, held_out), "test": (test_name, held_out)}
    if val is not None and cut.control_from != "train":
        control = _balanced_order(val, numpy_generator(cut.seed, "roles", val.name))
        control = control[: _size("control_size", cut.control_size, min(val.size, CONTROL_LIMIT), val.size, val.name)]
        roles["control"] = (val.name, np.sort(control))
    elif cut.control_from == "test":
        count = len(held_out)
        size = _size("control_size", cut.control_size, min(count // 2, CONTROL_LIMIT), count - 1, test_name)
        mixed = _balanced_order(Pool("", count, test_labels), numpy_generator(cut.seed, "roles", "test"))
        roles["control"] = (test_name, np.sort(held_out[mixed[:size]]))
        roles["test"] = (test_name, np.sort(held_out[mixed[size:]]))
    else:
        size = _size(
            "control_size", cut.control_size, min(len(order) * 3 // 10, CONTROL_LIMIT), len(order) - 2, "train"
        )
        roles["control"] = (train.name, np.sort(order[:size]))
        order = order[size:]
    default = min(max(1, len(order) // 8), CALIBRATION_LIMIT)
    size = _size("calibration_size", cut.calibration_size, default, len(order) - 1, "train")
    roles["calibration"] = (train.name, np.sort(order[:size]))
    roles["train"] = (train.name, np.sort(order[size:]))
    return roles


def assemble(
    name: str,
    task: str,
    classes: tuple[str, ...],
    input_shape: tuple[int, ...],
    pools: Mapping[str, Pool],
    cut: Cut,
    source: Callable[[str, Any], Source],
    sample: Callable[[np.ndarray], np.ndarray] | None,
    *,
    scale: float = 255.0,
    positions: Positions | None = None,
    details: Mapping[str, Any] | None = None,
) -> DataSplits:
    """Cut pools into roles, choose the normalisation on the train role, and wrap them up with their record.

    Args:
        name: Specification of the data.
        task: Name of the task.
        classes: Class names.
        input_shape: Of one input, the channels first.
        pools: "train", and "val" and "test" where there are such.
        cut: How to cut.
        source: Makes the source of a pool, given its name and the `Normalisation`, or None.
        sample: Images (n, channels, ...) of the train pool at these positions, to be measured; None for data that is
            not normalised here.
        scale: 255 for uint8 images, else 1.
        positions: Who has which role, where it is not for `cut_roles` to say.
        details: Further plain values for the record.
    """
    if positions is None:
        positions = cut_roles(cut, pools["train"], pools.get("test"), pools.get("val"))
    normalisation = None
    if sample is not None:
        train = positions["train"][1]
        normalisation = choose_normalisation(
            cut.normalise, input_shape[0], scale, lambda: sample(train), images=len(input_shape) == 3
        )
    elif cut.normalise is not None:
        raise UserError(f"normalise={cut.normalise} does not apply to {task} data: detectors normalise by themselves")
    sources = {key: source(key, normalisation) for key in pools}
    splits = {role: Split(sources[pool], index, role) for role, (pool, index) in positions.items()}
    roles: dict[str, Any] = {"seed": cut.seed, "control_from": positions["control"][0]}
    roles["content"] = {key: pool.content for key, pool in pools.items()}
    if normalisation is not None:
        roles["normalisation"] = normalisation.to_json()
    roles |= details or {}
    for role in ROLES:
        key, index = positions[role]
        roles[role] = {"source": key, "size": len(index), "fingerprint": splits[role].fingerprint()}
    digest = hashlib.sha256(json.dumps(roles, sort_keys=True).encode()).hexdigest()[:16]
    return DataSplits(name, task, classes, input_shape, **splits, roles=roles, fingerprint=digest)


def thinned(positions: np.ndarray, most: int) -> np.ndarray:
    """About so many of the positions at most, evenly spaced: enough to measure a mean on."""
    return positions[:: max(1, len(positions) // most)]


def hash_arrays(*arrays: np.ndarray) -> str:
    """Short hash of arrays: their types, shapes and bytes."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()[:16]


def _size(what: str, asked: int | None, default: int, most: int, where: str) -> int:
    if asked is None:
        asked = max(1, default)
    if not 1 <= asked <= most:
        if most < 1:
            raise UserError(f"the {where} images are too few for every role to have one; there must be more of them")
        option = what.replace("_", " ")
        raise UserError(
            f"{option} is {asked}; it must lie in [1, {most}] so that the {where} images suffice for every role"
        )
    return asked


def _balanced_order(pool: Pool, generator: np.random.Generator) -> np.ndarray:
    """A random order in which every stretch holds the classes in about their overall proportion."""
    if pool.labels is None:
        return generator.permutation(pool.size)
    rank = np.empty(pool.size)
    for label in np.unique(pool.labels):
        members = np.flatnonzero(pool.labels == label)
        rank[members] = (generator.permutation(len(members)) + generator.random(len(members))) / len(members)
    return np.argsort(rank, kind="stable")
