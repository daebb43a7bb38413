"""Images with targets that are more than a label: read one by one, changed together, put into batches."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from rlprune.data.splits import Source
from rlprune.errors import UserError
from rlprune.seeding import derive, numpy_generator
from rlprune.tasks.base import Batch

MEMORY_LIMIT = 2**30  # bytes of decoded samples kept per pool

# A uint8 image (C, H, W) and what is true of it: a mask (H, W), or a dict of boxes
Sample = tuple[torch.Tensor, Any]
# Changes image and target together, drawing from torch's global generator, which is seeded for the sample
Augment = Callable[[Sample], Sample]
Collate = Callable[[Sequence[Sample], torch.device], Batch]


class Reader(Protocol):
    """Reads samples from wherever they are."""

    moves: bool  # whether `read` cuts elsewhere for another generator (tiles of big images)

    def __len__(self) -> int: ...

    def read(self, index: int, generator: np.random.Generator | None) -> Sample:
        """One sample; raises UserError naming the file if it cannot be read."""
        ...

    def nbytes(self) -> int:
        """About how much memory a decoded sample takes."""
        ...


class SampleSource:
    """A source of samples: kept decoded in memory if they fit, read by worker processes if not.

    Args:
        name: Name of the pool.
        reader: Reads samples.
        collate: Makes a batch of them.
        augment: Changes a sample at random; None for data that must stay as it is.
    """

    def __init__(self, name: str, reader: Reader, collate: Collate, augment: Augment | None) -> None:
        self.name = name
        self.reader = reader
        self.collate = collate
        self.augment = augment
        self._kept: dict[int, Sample] = {}

    def __len__(self) -> int:
        return len(self.reader)

    def stream(self, chunks: Sequence[np.ndarray], augment: int | None, device: torch.device) -> Iterator[Batch]:
        """Batches, augmented if a seed is given; equal seeds change equal samples equally."""
        if self._fits(len(self)) or not len(chunks):
            if augment is None or not self.reader.moves:
                for index in np.unique(np.concatenate(chunks)) if len(chunks) else ():
                    self.sample(int(index))  # in the order in which they lie: tiles of one image come together
            for chunk in chunks:
                yield self.collate([self._changed(int(index), augment) for index in chunk], device)
            return
        dataset = _Samples(self.reader, self.augment, augment)
        workers = min(8, os.cpu_count() or 1)
        sampler = [chunk.tolist() for chunk in chunks]
        for samples in DataLoader(dataset, batch_sampler=sampler, num_workers=workers, collate_fn=list):
            for sample in samples:
                if isinstance(sample, str):  # an exception from a worker would bring its traceback along
                    raise UserError(sample)
            yield self.collate(samples, device)

    def hold(self, positions: np.ndarray, device: torch.device) -> Source | None:
        """These samples decoded once, where the whole pool does not fit and they do."""
        if self._fits(len(self)) or not self._fits(len(positions)):
            return None
        kept = KeptSamples([self.reader.read(int(index), None) for index in positions])
        return SampleSource(self.name, kept, self.collate, self.augment)

    def sample(self, index: int) -> Sample:
        """One sample as it is, decoded."""
        if index not in self._kept:
            sample = self.reader.read(index, None)
            if not self._fits(len(self)):
                return sample
            self._kept[index] = sample
        return self._kept[index]

    def _changed(self, index: int, augment: int | None) -> Sample:
        if augment is None:
            return self.sample(index)
        if self.reader.moves:
            sample = self.reader.read(index, numpy_generator(augment, "cut", index))
        else:
            sample = self.sample(index)
        return changed(sample, self.augment, derive(augment, index))

    def _fits(self, count: int) -> bool:
        return count * self.reader.nbytes() <= MEMORY_LIMIT


class KeptSamples:
    """A reader of samples that are in memory already."""

    moves = False

    def __init__(self, samples: Sequence[Sample]) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def read(self, index: int, generator: np.random.Generator | None) -> Sample:
        """The sample."""
        return self.samples[index]

    def nbytes(self) -> int:
        """Nothing more than is taken already."""
        return 0


def changed(sample: Sample, augment: Augment | None, seed: int) -> Sample:
    """The sample after `augment`, drawn for this seed; torch's global generator is left as it was."""
    if augment is None:
        return sample
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return augment(sample)


class _Samples(Dataset[Sample | str]):
    """Samples for a DataLoader; an error comes back as its message."""

    def __init__(self, reader: Reader, augment: Augment | None, seed: int | None) -> None:
        self.reader, self.augment, self.seed = reader, augment, seed

    def __len__(self) -> int:
        return len(self.reader)

    def __getitem__(self, index: int) -> Sample | str:
        try:
            if self.seed is None:
                return self.reader.read(index, None)
            sample = self.reader.read(index, numpy_generator(self.seed, "cut", index))
            return changed(sample, self.augment, derive(self.seed, index))
        except UserError as error:
            return str(error)
