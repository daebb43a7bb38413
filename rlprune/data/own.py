"""A data set of one's own in a Python file: `mydata.py:name`."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.data import default_collate

from rlprune.data.cutting import Cut, Pool, assemble, hash_arrays
from rlprune.data.folders import POOL_OF
from rlprune.data.normalisation import Normalisation, choose_normalisation
from rlprune.data.npz import CLASSES, MASKS, name_of
from rlprune.data.samples import Sample, SampleSource
from rlprune.data.splits import DataSplits
from rlprune.errors import UserError, calling, guarding
from rlprune.importing import object_in
from rlprune.seeding import derive, seeded
from rlprune.tasks.base import Batch
from rlprune.tasks.segmentation import IGNORE

BOXES = ("detection", "keypoints")  # tasks whose images and targets stay lists
PARTS: dict[str, tuple[Any, Any]] = {"split": ("train", "test"), "train": (True, False)}
LOOKED_AT = 64  # inputs of each pool that tell its content from another's


class OwnReader:
    """Reads examples of a data set with `__len__` and `__getitem__`; what it draws at random is seeded for each.

    Args:
        dataset: Gives pairs of an input, floating point with the channels first, and a target.
        name: Its specification.
    """

    moves = True  # training reads anew, so that the data set's own random changes are its augmentation

    def __init__(self, dataset: Any, name: str) -> None:
        self.dataset, self.name = dataset, name

    def __len__(self) -> int:
        return len(self.dataset)

    def read(self, index: int, generator: np.random.Generator | None) -> Sample:
        """One example; always the same without a generator."""
        seed = derive(0, index) if generator is None else int(generator.integers(2**63))
        with seeded(seed), calling(f"{self.name}[{index}]"):
            found = self.dataset[index]
        if not isinstance(found, (tuple, list)) or len(found) != 2:
            what = f"{len(found)} things" if isinstance(found, (tuple, list)) else f"a {type(found).__name__}"
            raise UserError(f"{self.name}[{index}] is {what}; it must be a pair (input, target)")
        image, target = tree_map(lambda part: torch.from_numpy(part) if isinstance(part, np.ndarray) else part, found)
        if not isinstance(image, torch.Tensor) or not image.is_floating_point() or image.ndim < 2:
            what = (
                f"{image.dtype} of shape {tuple(image.shape)}"
                if isinstance(image, torch.Tensor)
                else f"a {type(image).__name__}"
            )
            raise UserError(
                f"{self.name}[{index}] has an input that is {what}; it must be a tensor as the network takes it: "
                "floating point, the channels first"
            )
        if not image.isfinite().all():
            raise UserError(f"{self.name}[{index}] has an input that holds NaN or infinity; every value must be finite")
        return image.float(), target

    def nbytes(self) -> int:
        """Of the first example."""
        return self._nbytes

    @cached_property
    def _nbytes(self) -> int:
        return sum(leaf.nbytes for leaf in tree_leaves(self.read(0, None)) if isinstance(leaf, torch.Tensor))


def load_own(spec: str, path: Path, name: str, cut: Cut, task: str | None) -> DataSplits:
    """The data set in a file, cut into roles.

    Args:
        spec: `mydata.py:name`.
        path: The file.
        name: A data set in it, a class or function that gives one, or such by `train`, `val` and `test` in a dict. A
            class or function with an argument `split` is called with "train" and with "test", one with an argument
            `train` with True and with False; otherwise a fifth is put aside for the test.
        cut: How to cut. Inputs are taken as they are, unless it says how to normalise them.
        task: What the targets are for; None takes classification, or detection for dicts with `boxes`.

    Raises:
        UserError: There is no such thing in the file, it fails, or gives something else than pairs.
    """
    for option, asked in (("size", cut.size), ("channels", cut.channels)):
        if asked is not None:
            raise UserError(f"{option} is {asked}, and {spec} gives its examples as they are; change them there")
    sets = _sets(spec, object_in(path, name, "data set"))
    readers = {pool: OwnReader(dataset, spec) for pool, dataset in sets.items()}
    image, target = readers["train"].read(0, None)
    boxed = isinstance(target, Mapping) and "boxes" in target
    task = task or ("detection" if boxed else "classification")
    normalisation = choose_normalisation(cut.normalise or "none", len(image), 1.0, lambda: np.empty(0))
    collate = partial(_collate, normalisation, name_of(task) in BOXES)
    sources = {pool: SampleSource(pool, reader, collate, None) for pool, reader in readers.items()}
    labels = {pool: _labels(spec, source, sets[pool], task) for pool, source in sources.items()}
    sized = {pool: Pool(pool, len(sets[pool]), labels[pool], _content(source)) for pool, source in sources.items()}
    named = cut.classes or tuple(map(str, getattr(sets["train"], "classes", ())))
    return assemble(
        spec, task, named or _classes(spec, target, list(labels.values()), sources, task), tuple(image.shape), sized,
        replace(cut, normalise=None), lambda pool, _: sources[pool], None,
        details={"normalisation": normalisation.to_json()},
    )  # fmt: skip


def _sets(spec: str, found: Any) -> dict[str, Any]:
    """Data sets by pool."""
    if (callable(found) and not hasattr(found, "__getitem__")) or isinstance(found, type):
        with guarding(f"{spec} failed when it was made", "it takes no argument but split or train"):
            part = next((name for name in PARTS if name in inspect.signature(found).parameters), None)
            found = (
                {pool: found(**{part: value}) for pool, value in zip(("train", "test"), PARTS[part], strict=True)}
                if part
                else found()
            )
    given = found if isinstance(found, Mapping) else {"train": found}
    if "train" not in {POOL_OF.get(name) for name in given} or not set(given) <= set(POOL_OF):
        raise UserError(f"{spec} has the parts {', '.join(map(str, given))}; give train, and val and test if there are")
    for name, dataset in given.items():
        if not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__"):
            raise UserError(
                f"{spec} gives a {type(dataset).__name__} for {name}; it must have __len__ and __getitem__, as "
                "torch's Dataset"
            )
        if not len(dataset):
            raise UserError(f"{spec} is empty for {name}; it must have at least one example")
    return {POOL_OF[name]: dataset for name, dataset in given.items()}


def _labels(spec: str, source: SampleSource, dataset: Any, task: str) -> np.ndarray | None:
    """Class indices, the data set's own `targets` if it has such, else read one by one; None for other tasks."""
    if name_of(task) not in CLASSES:
        return None
    found = getattr(dataset, "targets", None)
    if found is None or len(found) != len(dataset):
        found = [source.sample(index)[1] for index in range(len(dataset))]
    with guarding(f"{spec} has targets that are no numbers", f"{task} needs whole numbers"):
        labels = np.asarray([np.asarray(target) for target in found])
    if labels.ndim != 1 or labels.dtype.kind not in "iu" or labels.min() < 0:
        raise UserError(
            f"{spec} has targets that are {labels.dtype} of shape {labels.shape[1:]}; {task} needs whole numbers from "
            "0 on, others a task, such as --task regression"
        )
    return labels.astype(np.int64)


def _classes(
    spec: str, target: Any, labels: Sequence[np.ndarray | None], sources: Mapping[str, SampleSource], task: str
) -> tuple[str, ...]:
    """As many as occur; of other targets one for each number."""
    if name_of(task) in (*BOXES, MASKS):
        every = (source.sample(index)[1] for source in sources.values() for index in range(len(source)))
        wanted = "dicts with boxes and labels" if name_of(task) in BOXES else "a mask of whole numbers"
        with guarding(f"{spec} has targets of another kind", f"{task} needs {wanted}"):
            found = (one["labels"] if name_of(task) in BOXES else one[one != IGNORE] for one in every)
            most = max(int(one.max()) for one in found if len(one))
    elif labels[0] is not None:
        most = max(int(one.max()) for one in labels if one is not None)
    else:
        most = (len(target) if isinstance(target, torch.Tensor) and target.ndim else 1) - 1
    return tuple(map(str, range(most + 1)))


def _content(source: SampleSource) -> str:
    """Hash of some examples, spread evenly."""
    some = range(0, len(source), max(1, len(source) // LOOKED_AT))
    leaves = [np.asarray(leaf) for index in some for leaf in tree_leaves(source.sample(index))]
    return hash_arrays(np.asarray(len(source)), *(leaf for leaf in leaves if leaf.dtype.kind in "biuf"))


def _collate(normalisation: Normalisation, listed: bool, samples: Sequence[Sample], device: torch.device) -> Batch:
    """A batch; detectors take lists, and normalise by themselves."""

    def placed(part: Any) -> Any:
        return tree_map(lambda leaf: leaf.to(device) if isinstance(leaf, torch.Tensor) else leaf, part)

    if listed:
        if not all(isinstance(target, Mapping) for _, target in samples):
            raise UserError("the targets are no dicts; a detector needs boxes and labels, as torchvision's takes them")
        return [placed(image) for image, _ in samples], [placed(dict(target)) for _, target in samples]
    with guarding("the examples do not go into one batch", "give inputs, and targets, of one shape each"):
        images, targets = default_collate(list(samples))
    targets = tree_map(lambda leaf: leaf.float() if leaf.dtype == torch.float64 else leaf, targets)
    return normalisation(placed(images)), placed(targets)
