"""Everything measured on the networks of one problem, kept while there is room and somebody may ask again."""

from __future__ import annotations

import itertools
import math
import multiprocessing
import os
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from typing import Any, ClassVar, Protocol, TypeVar
from weakref import WeakSet

import torch
from torch import Tensor, nn

from rlprune.artifact import fingerprint
from rlprune.data.live import examples
from rlprune.heap import give_back
from rlprune.measuring.grams import GramStore
from rlprune.measuring.norms import Statistics, measure_bn
from rlprune.network import Network
from rlprune.scoring.evaluation import Evaluator, Ledger, batch_within
from rlprune.tasks.base import Batch, Task
from rlprune.tasks.score import Score

# What a channel sees are positions: 128 images of 32 pixels have 8,192 at 8x8, 41 of 224 have 2,009 at 7x7.
BN_IMAGES, BN_PIXELS = 128, 2**21
BN_FEW, BN_FEW_PIXELS = 24, 2**22  # fewer than these only where they are larger than that
BATCH_IMAGES, BATCH_PIXELS = 64, 2**21
MEMORY = 2**30  # bytes, for the machine
ENTRIES = 12  # an iterative run makes a new network a round, and comes back to the first one only

T = TypeVar("T")


class Bench(Protocol):
    """What measuring and recovery need to know of a problem.

    Attributes:
        model: The unpruned network.
        task: How networks are called.
        data: Its calibration split is what is looked at, its train split what is trained on.
        device: Where.
        seed: Of what is drawn.
        baseline: The unpruned network's score on the control split.
        evaluator: Scores networks, and knows the layout that they take.
        ledger: Where the cost is counted.
        measured: What was measured on its networks.
    """

    model: nn.Module
    task: Task
    data: Any
    device: torch.device
    seed: int
    evaluator: Evaluator
    ledger: Ledger
    measured: Measured

    @property
    def baseline(self) -> Score: ...  # noqa: D102


def calibration_calls(problem: Bench, images: int | None = None) -> Iterator[tuple[Any, ...]]:
    """A network's arguments for the first calibration images, a tuple a batch, in the layout that is fastest."""
    split = problem.data.split("calibration")
    split = split if images is None else split.first(images)
    pace = problem.evaluator.settled(problem.model)
    most = batch_within(BATCH_PIXELS, BATCH_IMAGES, problem.data.input_shape)
    count = math.ceil(len(split) / most)
    size = math.ceil(len(split) / count)  # batches count alike in an average, so let them be alike
    batches = _several(split.batches(size, device=problem.device))
    return (problem.task.inputs(pace.arranged(batch)) for batch in batches)


def _several(batches: Iterable[Batch]) -> Iterator[Batch]:
    """Without a batch of one example behind larger ones: it has no statistics."""
    larger = False
    for batch in batches:
        larger |= examples(batch) > 1
        if examples(batch) > 1 or not larger:
            yield batch


def bn_calls(problem: Bench) -> Iterator[tuple[Any, ...]]:
    """Those that batch-norm statistics are taken from: as many images as they need."""
    shape = problem.data.input_shape
    few = batch_within(BN_FEW_PIXELS, BN_FEW, shape)
    return calibration_calls(problem, max(few, batch_within(BN_PIXELS, BN_IMAGES, shape)))


def memory_bound() -> int:
    """Bytes that this process may keep: a worker's part is what there is for the machine, over its cores."""
    alone = multiprocessing.parent_process() is None
    return MEMORY if alone else MEMORY // (os.cpu_count() or 1)


class Measured:
    """What was measured on networks, found again by their content: a hash of the weights.

    So a fresh copy of a network finds it again, and a trained one does not. It belongs to one problem and goes with it.

    Args:
        memory: Bytes to keep, over all problems of this process, and of a dozen measurements at most; the least
            recently used goes first, the last one asked for always stays. Of the Gram matrices of one network, what
            takes more than a quarter of it lies in files: so they are not collected anew in every episode for the
            lack of room. None takes `memory_bound()`.
    """

    _all: ClassVar[WeakSet[Measured]] = WeakSet()
    _clock: ClassVar[Iterator[int]] = itertools.count()

    def __init__(self, memory: int | None = None) -> None:
        self.memory = memory_bound() if memory is None else memory
        self._kept: OrderedDict[str, tuple[Any, Callable[[Any], int]]] = OrderedDict()
        self._used = next(Measured._clock)
        Measured._all.add(self)

    @property
    def bytes(self) -> int:
        """Memory held."""
        return sum(size(found) for found, size in self._kept.values())

    def forget(self, network: Network | None = None) -> None:
        """Forget what was measured on a network, or on any."""
        weights = "" if network is None else fingerprint(network.model.state_dict())
        for key in [key for key in self._kept if weights in key]:
            del self._kept[key]
        if network is None:
            give_back()

    def grams(self, network: Network, problem: Bench) -> GramStore:
        """The Gram matrices of what the layers of `network` read."""

        def collect() -> GramStore:
            give_back()  # what scoring has left
            calls, part = calibration_calls(problem), self.memory / 16
            found = GramStore.collect(network.model, network.groups, calls, seed=problem.seed, memory=part)
            give_back()  # a wide layer's sums take several times what stays
            return found

        kind = f"gram/{len(network.groups.prunable)}"
        return self._get(kind, network, problem, collect, lambda found: found.bytes)

    def norms(self, network: Network, problem: Bench) -> Statistics:
        """Mean and variance of what the batch norms of `network` read."""

        def measure() -> Statistics:
            return measure_bn(network.model, bn_calls(problem))

        return self._get("norms", network, problem, measure, lambda found: sum(map(_bytes, found.values())))

    def _get(self, kind: str, network: Network, problem: Bench, make: Callable[[], T], size: Callable[[T], int]) -> T:
        weights, images = fingerprint(network.model.state_dict()), problem.data.split("calibration").fingerprint()
        key = f"{kind}/{weights}/{images}/{problem.device}"
        if key not in self._kept:
            self._kept[key] = make(), size
        self._kept.move_to_end(key)
        self._used = next(Measured._clock)
        while len(self._kept) > ENTRIES:
            self._kept.popitem(last=False)
        for one in sorted(Measured._all, key=lambda one: one._used):  # that of the problem left longest ago gives first
            while len(one._kept) > (one is self) and sum(each.bytes for each in Measured._all) > self.memory:
                one._kept.popitem(last=False)
        kept: T = self._kept[key][0]
        return kept


def _bytes(tensors: tuple[Tensor, ...]) -> int:
    return sum(tensor.nbytes for tensor in tensors)
