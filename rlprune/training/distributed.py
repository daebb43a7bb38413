"""Data-parallel training: this process's place among those that `torchrun` started, and its share of a batch."""

from __future__ import annotations

import atexit
import os
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn.parallel import DistributedDataParallel

from rlprune.tasks.base import Batch, Task, cut

T = TypeVar("T")


@dataclass(frozen=True)
class World:
    """This process's place among those that train together: `rank` of `size`."""

    rank: int = 0
    size: int = 1

    @classmethod
    def current(cls) -> World:
        """As `torch.distributed` was initialised, or as `torchrun` says it should be; else one process."""
        if not dist.is_available():
            return cls()
        if not dist.is_initialized():
            if int(os.environ.get("WORLD_SIZE", "1")) == 1:
                return cls()
            join()
        return cls(dist.get_rank(), dist.get_world_size())

    @property
    def first(self) -> bool:
        """Whether this is the process that writes files and shows progress."""
        return self.rank == 0

    def parallel(self, model: nn.Module) -> nn.Module:
        """The network as all processes train it together, from the first one's weights; itself for one process."""
        if self.size == 1:
            return model
        # A detector's heads may see no proposal in a batch, so not every parameter has a gradient in every step.
        return DistributedDataParallel(model, find_unused_parameters=True)

    def share(self, batch: Batch, task: Task) -> tuple[Batch, int, float]:
        """This process's part of a batch, how many images the whole has, and what the part's mean loss counts.

        Every process draws the same batches, and small sets live in memory, so cutting (every size-th image) is all
        there is to do. The mean of the processes' losses, so weighted, is the loss over the whole batch.
        """
        images = task.size(batch)
        if self.size == 1 or images < self.size:  # too few to go round: everybody takes all
            return batch, images, 1.0
        part = cut(batch, slice(self.rank, None, self.size))
        return part, images, task.size(part) * self.size / images

    def mean(self, value: Tensor) -> Tensor:
        """The mean of all processes' values."""
        if self.size > 1:
            dist.all_reduce(value)
        return value / self.size

    def share_buffers(self, model: nn.Module) -> None:
        """Give all processes the first one's buffers (batch-norm statistics)."""
        if self.size > 1:
            for buffer in model.buffers():
                dist.broadcast(buffer, 0)

    def same(self, value: T) -> T:
        """The first process's value, for all."""
        box = [value]
        if self.size > 1:
            dist.broadcast_object_list(box, 0)
        return box[0]

    def barrier(self) -> None:
        """Wait for all."""
        if self.size > 1:
            dist.barrier()


def join() -> None:
    """Join the processes that `torchrun` started.

    With accelerators "cuda" means this process's own from here on: call it before the network goes there. `train`
    calls it too.
    """
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    atexit.register(lambda: dist.destroy_process_group() if dist.is_initialized() else None)
