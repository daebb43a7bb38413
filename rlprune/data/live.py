"""A user's own data as it comes: any re-iterable of batches in the place of a split."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from numbers import Real
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.data import DataLoader, Dataset, IterableDataset

from rlprune.data.calling import Order
from rlprune.errors import UserError, calling
from rlprune.seeding import derive, numpy_generator
from rlprune.tasks.base import Batch, cut

ToBatch = Callable[[Any], Any]
_END = object()
BATCH = 64  # of examples that come one by one
CALIBRATION = 512  # examples of the training data that recovery looks at where nothing else is given


class LiveSplit:
    """A loader with the face of a `Split`.

    The loader's own batches are taken as they are, so that its batch size and augmentation stay the user's; only a
    pair of whole tensors is cut (and, for training, shuffled) here. What a loader draws from torch's random numbers
    comes from a stream of its own, so that equal seeds give equal batches and nobody else's draws change.

    Args:
        loader: A `DataLoader`, a list of batches, a data set or list of single examples (which a `DataLoader` then
            batches), a pair of tensors or arrays (inputs, targets) of equal length, or inputs alone where nothing asks
            for targets.
        role: What it may be used for.
        convert: Turns whatever the loader yields into `(inputs, targets)`.
        seed: Of the order of a split that is not for training.

    Raises:
        UserError: For something that gives no batch or cannot be gone through twice.
    """

    def __init__(self, loader: Any, role: str, convert: ToBatch, seed: int = 0) -> None:
        self.loader, self.role, self.convert, self.seed = _batched(loader, role), role, convert, seed
        self._sizes: list[int] | None = None
        self._digest: str | None = None

    @property
    def whole(self) -> bool:
        """Whether it is a pair of whole tensors rather than batches."""
        pair = self.loader
        return (
            isinstance(pair, tuple) and len(pair) == 2 and all(isinstance(part, Tensor) and part.ndim for part in pair)
        )

    def __len__(self) -> int:
        return len(self.loader[1]) if self.whole else sum(self._counted())

    def __repr__(self) -> str:
        return f"LiveSplit({self.role!r}, {type(self.loader).__name__})"

    def steps(self, batch_size: int) -> int:
        """How many batches a pass of training has: the loader's own number where it brings batches."""
        sizes = self._cut(batch_size) if self.whole else self._counted()
        return sum(size > 1 for size in sizes) or len(sizes)

    def _cut(self, batch_size: int) -> list[int]:
        """Sizes of the batches that whole tensors are cut into."""
        return [min(batch_size, len(self) - start) for start in range(0, len(self), batch_size)] or [0]

    def batches(
        self,
        batch_size: int,
        *,
        seed: int | None = None,
        epoch: int = 0,
        augment: bool = False,
        device: str | torch.device = "cpu",
    ) -> Iterator[Batch]:
        """The batches; `batch_size` is for whole tensors, `augment` is the loader's own affair.

        With a seed, for training, a batch of one example is left out where there are larger ones: it has no statistics.
        """
        place = torch.device(device)
        if self.whole:
            order = torch.arange(len(self))
            if seed is not None:
                order = torch.from_numpy(numpy_generator(seed, "shuffle", epoch).permutation(len(self)))
            cuts = (order[start : start + batch_size] for start in range(0, len(order), batch_size))
            found: Iterator[Any] = ((self.loader[0][cut], self.loader[1][cut]) for cut in cuts)
        else:
            found = _private(self.loader, derive(self.seed if seed is None else seed, "loader", self.role, epoch))
        sizes = [] if seed is None else self._cut(batch_size) if self.whole else self._counted()
        least = 2 if any(size > 1 for size in sizes) else 0
        for item in _told(found, f"the data of {self.role}="):
            inputs, targets = self.convert(item)
            if not least or examples((inputs, targets)) >= least:
                yield _to(inputs, place), _to(targets, place)

    def first(self, n: int) -> LiveSplit:
        """The first `n` examples, kept in memory."""
        kept: list[Batch] = []
        left = n
        for batch in self.batches(n):
            size = examples(batch)
            kept.append(batch if size <= left else cut(batch, slice(left)))
            left -= min(size, left)
            if left == 0:
                break
        return LiveSplit(kept, self.role, _as_is, self.seed)

    def subset(self, n: int, seed: int = 0) -> LiveSplit:
        """`n` examples: the first, since a loader has its own order."""
        return self.first(n)

    def fingerprint(self) -> str:
        """Short hash over the first batch and the sizes of all."""
        if self._digest is None:
            digest = hashlib.sha256(f"{self.role}/{self._counted() if not self.whole else len(self)}".encode())
            for leaf in tree_leaves(next(self.batches(64))):
                if isinstance(leaf, Tensor):
                    digest.update(leaf.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
            self._digest = digest.hexdigest()[:16]
        return self._digest

    def _counted(self) -> list[int]:
        """Examples of every batch, counted in one pass."""
        if self._sizes is None:
            self._sizes = [examples(batch) for batch in self.batches(1)]
            if not self._sizes:
                raise UserError(f"{self.role}= gives no batch; it must give at least one")
        return self._sizes


def _batched(loader: Any, role: str) -> Any:
    """What was given as batches, or as a pair of whole tensors; raises UserError if it is neither."""
    if isinstance(loader, Mapping):
        raise UserError(f"{role}= is a {type(loader).__name__} of {', '.join(map(str, loader))}; give one loader of it")
    if isinstance(loader, tuple) and len(loader) == 2:
        loader = (_tensor(loader[0]), _numbers(_tensor(loader[1])))
        sizes = [len(part) for part in loader if isinstance(part, Tensor) and part.ndim]
        if len(set(sizes)) > 1:
            raise UserError(f"{role}= has {sizes[0]} inputs and {sizes[1]} targets; there must be one for each")
    if isinstance(loader, (Tensor, np.ndarray)):
        return [(part, None) for part in _tensor(loader).split(BATCH)]
    listed = hasattr(loader, "__getitem__") and hasattr(loader, "__len__") and not isinstance(loader, Iterable)
    if (isinstance(loader, Dataset) and not isinstance(loader, IterableDataset)) or listed:
        return DataLoader(loader, batch_size=BATCH, shuffle=role == "train")
    if isinstance(loader, (IterableDataset, list)) and _alone(next(iter(loader), None)):
        shuffle = role == "train" and isinstance(loader, list)
        return DataLoader(loader, batch_size=BATCH, shuffle=shuffle)  # type: ignore[arg-type]
    if not isinstance(loader, Iterable) or isinstance(loader, Iterator):
        raise UserError(
            f"{role}= is a {type(loader).__name__}, which cannot be gone through twice; give a DataLoader, a list "
            "of batches, or a pair of tensors (inputs, targets)"
        )
    return loader


def _alone(item: Any) -> bool:
    """Whether an item is one example rather than a batch: its target is a single number."""
    target = item[1] if isinstance(item, (tuple, list)) and len(item) == 2 else None
    return isinstance(target, (Real, str)) or (isinstance(target, (Tensor, np.ndarray)) and target.ndim == 0)


def _tensor(part: Any) -> Any:
    return torch.from_numpy(part) if isinstance(part, np.ndarray) and part.dtype.kind in "biuf" else part


def _numbers(part: Any) -> Any:
    """A list of numbers as a tensor; anything else as it is."""
    plain = isinstance(part, list) and part and all(isinstance(number, Real) for number in part)
    return torch.tensor(part) if plain else part


def examples(batch: Batch) -> int:
    """How many examples a batch has: the length of its first tensor or list of targets, else of inputs."""
    for part in (batch[1], batch[0]):
        if isinstance(part, (list, tuple)) and part and not isinstance(part[0], Tensor):
            return len(part)
        for leaf in tree_leaves(part):
            if isinstance(leaf, Tensor) and leaf.ndim:
                return len(leaf)
    return 1


def _private(loader: Iterable[Any], seed: int) -> Iterator[Any]:
    """The loader's items, with torch's global random numbers its own while it makes one, and restored after."""
    outside = torch.get_rng_state()
    torch.manual_seed(seed)
    try:
        items = iter(loader)
        own = torch.get_rng_state()
    finally:
        torch.set_rng_state(outside)
    while True:
        outside = torch.get_rng_state()
        torch.set_rng_state(own)
        try:
            item = next(items)
        except StopIteration:
            return
        finally:
            own = torch.get_rng_state()
            torch.set_rng_state(outside)
        yield item


def _told(items: Iterator[Any], what: str) -> Iterator[Any]:
    """The items; what making one raises is the user's to mend."""
    while True:
        with calling(what):
            item = next(items, _END)
        if item is _END:
            return
        yield item


def _as_is(item: Any) -> Batch:
    return item  # type: ignore[no-any-return]


def _to(part: Any, device: torch.device) -> Any:
    return tree_map(lambda leaf: leaf.to(device) if isinstance(leaf, Tensor) else leaf, part)


_TARGETS = ("labels", "label", "targets", "target")


def reader(order: Order, batch: ToBatch | None) -> ToBatch:
    """What turns a loader's item into `(inputs, targets)`, inputs being a tensor or a tuple of positional arguments.

    Args:
        order: Of the model's inputs; puts a dict of keywords into it.
        batch: The user's own first step; None takes pairs, single tensors as inputs without targets, and mappings with
            `labels`, as those of transformers, the rest of which are inputs; or with `label`, `targets` or `target`. A
            single input is taken by whatever name, if the model has none of that name.
    """

    def convert(item: Any) -> Batch:
        with calling("batch="):
            found = batch(item) if batch is not None else item
        if isinstance(found, Tensor):
            found = (found, None)
        key = next((key for key in _TARGETS if isinstance(found, Mapping) and key in found), None)
        if key is not None:
            inputs = {name: part for name, part in found.items() if name != key}
            alone = len(inputs) == 1 and not order.takes(*inputs)
            found = (next(iter(inputs.values())) if alone else inputs, found[key])
        if not isinstance(found, (tuple, list)) or len(found) != 2:
            what = f"a {type(found).__name__}" + (f" of {len(found)}" if isinstance(found, (tuple, list)) else "")
            raise UserError(
                f"the data gives {what} for a batch; give batch=function that turns it into (inputs, targets)"
            )
        inputs, targets = tree_map(_tensor, tuple(found))
        return order.arranged(inputs), _numbers(targets)

    return convert


@dataclass(frozen=True, eq=False)
class LiveData:
    """The roles of a user's own loaders, with the face of `DataSplits`. That they share no example is the user's word.

    Attributes:
        train, calibration, control, test: The loaders; None where none was given.
        name, task: For the record.
        classes: Nothing is known of them.
    """

    train: LiveSplit | None
    calibration: LiveSplit | None
    control: LiveSplit | None
    test: LiveSplit | None
    task: str
    name: str = "live"
    classes: tuple[str, ...] = ()

    @cached_property
    def input_shape(self) -> tuple[int, ...]:
        """Of the first input that is an image, the channels first, by the first batch; (1, 1, 1) if none is."""
        split = next((split for split in (self.calibration, self.control, self.train) if split is not None), None)
        inputs = () if split is None else next(split.batches(1), ((), None))[0]
        leaves = [leaf for leaf in tree_leaves(inputs) if isinstance(leaf, Tensor)]
        return next((tuple(leaf.shape[1:]) for leaf in leaves if leaf.ndim == 4), (1, 1, 1))

    @property
    def whole_test(self) -> LiveSplit | None:
        """The test loader."""
        return self.test

    @property
    def fingerprint(self) -> str:
        """Hash over the roles there are."""
        splits = (self.train, self.calibration, self.control)
        return "/".join("-" if split is None else split.fingerprint() for split in splits)

    def split(self, role: str) -> LiveSplit:
        """The loader of a role; raises UserError naming the argument that gives it."""
        found: LiveSplit | None = getattr(self, role)
        if found is None:
            otherwise = ", or recovery='none', which looks at none" if role == "calibration" else ""
            raise UserError(f"this needs {role} data and none was given; give {role}=loader{otherwise}")
        return found

    def to_json(self) -> dict[str, Any]:
        """The record in plain values."""
        roles = {role: getattr(self, role) for role in ("train", "calibration", "control", "test")}
        sizes = {role: {"size": len(split)} for role, split in roles.items() if split is not None}
        return {"name": self.name, "task": self.task, "roles": sizes, "fingerprint": self.fingerprint}
