"""Roles of data: which images may be used for what, and the batches of each."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch

from rlprune.errors import UserError, check_count, check_known
from rlprune.seeding import derive, numpy_generator
from rlprune.tasks.base import Batch

ROLES = ("train", "calibration", "control", "test", "whole_test")


class Source(Protocol):
    """Images with their targets, wherever they lie; a `Split` is some of them."""

    name: str

    def __len__(self) -> int: ...

    def stream(self, chunks: Sequence[np.ndarray], augment: int | None, device: torch.device) -> Iterator[Batch]:
        """One batch for each array of positions; `augment` is the seed of random changes, None for none."""
        ...

    def hold(self, positions: np.ndarray, device: torch.device) -> Source | None:
        """A source of just these images, in this order, kept ready in memory; None where they are too many."""
        ...


class Split:
    """The images that have one role.

    Args:
        source: Where they lie.
        positions: Which of the source's images they are, (n,) int64.
        role: What they may be used for.
    """

    def __init__(self, source: Source, positions: np.ndarray, role: str) -> None:
        self.source = source
        self.positions = np.asarray(positions, dtype=np.int64)
        self.role = role
        self._held: dict[str, Source | None] = {}

    def __len__(self) -> int:
        return len(self.positions)

    def __repr__(self) -> str:
        return f"Split({self.role!r}, {len(self)} images of {self.source.name!r})"

    def batches(
        self,
        batch_size: int,
        *,
        seed: int | None = None,
        epoch: int = 0,
        augment: bool = False,
        device: str | torch.device = "cpu",
    ) -> Iterator[Batch]:
        """The images in batches; equal arguments give equal batches.

        Args:
            batch_size: Images in a batch; the last may have fewer. In shuffled order a last batch of one image is
                left out, since batch norm cannot train on it.
            seed: Shuffles; None keeps the fixed order.
            epoch: Which shuffle and which augmentation of this seed.
            augment: Random changes, as fits the data.
            device: Where the tensors go.
        """
        check_count("batch size", batch_size)
        place = torch.device(device)
        source, order = self.source, self.positions
        if seed is None and not augment:
            held = self._hold(place)
            if held is not None:
                source, order = held, np.arange(len(self))
        if seed is not None:
            order = order[numpy_generator(seed, "shuffle", epoch).permutation(len(order))]
        chunks = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
        if seed is not None and len(chunks) > 1 and len(chunks[-1]) == 1:
            chunks.pop()
        return source.stream(chunks, derive(seed or 0, "augment", epoch) if augment else None, place)

    def steps(self, batch_size: int) -> int:
        """How many batches a shuffled pass has."""
        steps = -(-len(self) // batch_size)
        return steps - 1 if steps > 1 and len(self) % batch_size == 1 else steps

    def subset(self, n: int, seed: int = 0) -> Split:
        """`n` of the images, drawn once for the seed, in the split's order; all of them if there are no more."""
        if n < 1:
            raise UserError(f"a subset of {n} images was asked for; it must have at least 1")
        chosen = np.sort(numpy_generator(seed, "subset", self.role).permutation(len(self))[:n])
        return Split(self.source, self.positions[chosen], self.role)

    def first(self, n: int) -> Split:
        """The first `n` images in the split's order."""
        return Split(self.source, self.positions[:n], self.role)

    def require(self, *roles: str) -> Split:
        """Return the split if it has one of these roles; raises UserError otherwise: roles must not be mixed."""
        if self.role not in roles:
            raise UserError(f"these images have the role {self.role!r}; only {' or '.join(roles)} may be used here")
        return self

    def fingerprint(self) -> str:
        """Short hash of which images these are."""
        return hashlib.sha256(f"{self.source.name}/".encode() + self.positions.tobytes()).hexdigest()[:16]

    def _hold(self, device: torch.device) -> Source | None:
        if self.role == "train":  # only ever shuffled; keeping it twice would double the memory
            return None
        key = str(device)
        if key not in self._held:
            self._held[key] = self.source.hold(self.positions, device)
        return self._held[key]


@dataclass(frozen=True, eq=False)
class DataSplits:
    """A data set, cut into disjoint roles.

    Attributes:
        name: The specification it was loaded from.
        task: Name of the task its targets are for.
        classes: Class names in the order of their indices.
        input_shape: Of one input, the channels first: (channels, height, width) for images.
        train: For training, and nothing else.
        calibration: From the training data: batch-norm statistics, Gram matrices, criteria.
        control: For decisions: the tolerance is kept here.
        test: For the one look at the end; disjoint from control.
        whole_test: The published test set as a whole, control images included if they were cut from it.
        roles: The record in plain values: seed, and per role source, size and fingerprint; normalisation.
        fingerprint: Hash over `roles`: equal for equal data, cut equally.
    """

    name: str
    task: str
    classes: tuple[str, ...]
    input_shape: tuple[int, ...]
    train: Split
    calibration: Split
    control: Split
    test: Split
    whole_test: Split
    roles: dict[str, Any] = field(default_factory=dict)
    fingerprint: str = ""

    def to_json(self) -> dict[str, Any]:
        """The record in plain values."""
        return {
            "name": self.name,
            "task": self.task,
            "classes": list(self.classes),
            "input_shape": list(self.input_shape),
            "roles": self.roles,
            "fingerprint": self.fingerprint,
        }

    def split(self, role: str) -> Split:
        """The split of a role; raises UserError for a role there is not."""
        check_known("role", role, ROLES)
        found: Split = getattr(self, role)
        return found
