"""Data-parallel training: what several processes under `torchrun` have to do together, and nothing for one."""

from __future__ import annotations

import atexit
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch import distributed as dist

if TYPE_CHECKING:
    from rlprune.tasks import Batch, Task


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

    def share(self, batch: Batch, task: Task) -> tuple[Batch, int]:
        """This process's part of a batch (every size-th image), and how many images the whole batch has.

        Every process draws the same batches, and small sets live in memory, so cutting is all there is to do.
        """
        images = task.size(batch)
        if self.size == 1:
            return batch, images
        if images < self.size:  # too few to go round: everybody takes all, and the mean stays right
            return batch, images
        inputs, targets = batch
        return (_cut(inputs, self.rank, self.size), _cut(targets, self.rank, self.size)), images

    def weight(self, share: Batch, images: int, task: Task) -> float:
        """What this process's mean loss counts in the mean over the whole batch."""
        if self.size == 1:
            return 1.0
        return 1.0 / self.size if images < self.size else task.size(share) / images

    def sum_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Add up all processes' gradients, in one message."""
        if self.size == 1:
            return
        gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters]
        flat = torch.cat([g.reshape(-1) for g in gradients])
        dist.all_reduce(flat)
        for parameter, gradient in zip(parameters, torch.split(flat, [g.numel() for g in gradients]), strict=True):
            parameter.grad = gradient.view_as(parameter)

    def sum(self, value: Tensor) -> Tensor:
        """The sum of all processes' values."""
        if self.size > 1:
            dist.all_reduce(value)
        return value

    def share_parameters(self, model: nn.Module) -> None:
        """Give all processes the first one's parameters and buffers."""
        if self.size > 1:
            for parameter in model.parameters():
                dist.broadcast(parameter.detach(), 0)
        self.share_buffers(model)

    def share_buffers(self, model: nn.Module) -> None:
        """Give all processes the first one's buffers (batch-norm statistics)."""
        if self.size > 1:
            for buffer in model.buffers():
                dist.broadcast(buffer, 0)

    def same(self, value: float) -> float:
        """The first process's value, for all."""
        if self.size == 1:
            return value
        box: list[Any] = [value]
        dist.broadcast_object_list(box, 0)
        return float(box[0])

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
    atexit.register(_leave)


def _leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def _cut(part: Any, rank: int, size: int) -> Any:
    if isinstance(part, (Tensor, list, tuple)):
        return part[rank::size]
    if isinstance(part, dict):
        return {key: _cut(value, rank, size) for key, value in part.items()}
    return part
