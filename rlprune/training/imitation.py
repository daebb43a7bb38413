"""Imitation of a teacher, which is asked about the same examples only once."""

from __future__ import annotations

import hashlib
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from rlprune.scoring.pace import Pace
from rlprune.tasks.base import Batch, Task

MEMORY = 2**28  # bytes of answers that are kept
SEEN, LEAST = 3, 30  # times that a look at the data comes back in a run; of fewer looks than this a network learns less


class Teacher:
    """The network that students imitate, and what it answered.

    Its forward pass is two fifths of a training step, and a run of pruning trains again and again on the same data. So
    all trainings of a run share a few *looks*: orders of the data with their random changes. A look comes back, epochs
    or trainings later, as the same batches, and for those the answer is known. It is found by the inputs themselves:
    batches that did not come back equal are answered anew.

    Args:
        network: Called in eval mode.
        looks: How many there are; 0 for a new one every epoch of every training, and nothing is kept.
        seed: Of the looks.
    """

    def __init__(self, network: nn.Module, *, looks: int = 0, seed: int = 0) -> None:
        self.network, self.looks, self.seed = network, looks, seed
        self._known: dict[tuple[Pace, bytes], Tensor] = {}

    @classmethod
    def of_run(cls, network: nn.Module, epochs: float, answers: int, *, seed: int) -> Teacher:
        """One that sees every look a few times in a run of so many epochs; in short ones, all looks are new.

        Args:
            network: The teacher.
            epochs: Of all trainings together.
            answers: Numbers that it answers in an epoch; where those of all looks do not fit, nothing is kept.
            seed: Of the looks.
        """
        looks = math.ceil(epochs / SEEN)
        return cls(network, looks=looks if looks >= LEAST and 4 * looks * answers <= MEMORY else 0, seed=seed)

    def view(self, seed: int, epoch: int) -> tuple[int, int]:
        """Seed and number of the look that an epoch of a training with this seed takes."""
        return (self.seed, epoch % self.looks) if self.looks else (seed, epoch)

    def rows(self, task: Task, batch: Batch, pace: Pace) -> Tensor:
        """What a student is to imitate, `task.rows` of the network's output."""
        key = (pace, _digest(batch[0])) if self.looks else None
        if key in self._known:
            return self._known[key]
        with torch.no_grad():
            found = task.rows(self.network(*task.inputs(batch)), batch)
        if key is not None:
            self._known[key] = found
        return found


def _digest(inputs: object) -> bytes:
    """Short hash of all numbers in the inputs of a batch."""
    digest = hashlib.blake2b(digest_size=16)
    for leaf in tree_leaves(inputs):
        if isinstance(leaf, Tensor):
            digest.update(f"{leaf.dtype}{tuple(leaf.shape)}".encode())
            digest.update(leaf.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        else:
            digest.update(repr(leaf).encode())
    return digest.digest()


def imitation(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T² KL(teacher / T || student / T) over axis 1 (Hinton et al. 2015, *Distilling the knowledge*, section 2)."""
    wanted = F.log_softmax(teacher.float() / temperature, dim=1)
    got = F.log_softmax(student.float() / temperature, dim=1)
    divergence = (wanted.exp() * (wanted - got)).sum(1)
    return divergence.mean() * temperature**2
