"""Memory for large tensors up to a bound, and files behind it."""

from __future__ import annotations

import math
import mmap
import os
import tempfile
from collections.abc import Sequence
from weakref import ReferenceType, ref

import torch
from torch import Tensor

from rlprune.errors import UserError
from rlprune.heap import give_back


class Room:
    """Hands out memory up to a bound; beyond it, files that are read and written as if they were memory.

    They lie in the folder for temporary ones (`TMPDIR`), have no name, and go with the tensors. What was touched of
    them is this process's memory until `rest`.

    Args:
        limit: Bytes of ordinary memory.

    Attributes:
        filed: Bytes in files.
    """

    def __init__(self, limit: float = math.inf) -> None:
        self._left = limit
        self._files: list[ReferenceType[mmap.mmap]] = []
        self.filed = 0

    def zeros(self, shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
        """Zeros; on other devices than the processor always in their memory."""
        size = math.prod(shape) * dtype.itemsize
        if size <= self._left or device.type != "cpu":
            self._left -= size
            return torch.zeros(*shape, dtype=dtype, device=device)
        self.filed += size
        file = _file(size)
        self._files.append(ref(file))
        return torch.frombuffer(file, dtype=dtype).view(*shape)

    def keep(self, tensor: Tensor) -> Tensor:
        """The tensor as it is where there is room, else a copy in a file."""
        if tensor.nbytes <= self._left or tensor.device.type != "cpu":
            self._left -= tensor.nbytes
            return tensor
        return self.zeros(tensor.shape, tensor.dtype, tensor.device).copy_(tensor)

    def rest(self) -> None:
        """Leave what the files hold to the system, until it is looked at again, and what was freed since."""
        if not self.filed:
            return
        give_back()  # what is worth a file took several times its size in the making
        self.leave()

    def leave(self) -> None:
        """Leave what the files hold to the system, until it is looked at again."""
        for file in filter(None, (found() for found in self._files)):
            if hasattr(file, "madvise"):
                file.madvise(mmap.MADV_DONTNEED)


def _file(size: int) -> mmap.mmap:
    """So many bytes, all zero, mapped on a file."""
    with tempfile.NamedTemporaryFile(prefix="rlprune-") as file:
        try:
            if hasattr(os, "posix_fallocate"):  # a full disk is told now; later it would end the process
                os.posix_fallocate(file.fileno(), 0, size)
            else:
                file.truncate(size)
        except OSError as error:
            raise UserError(
                f"{size / 2**20:.0f} MB of Gram matrices do not fit into {tempfile.gettempdir()} ({error.strerror}); "
                "set TMPDIR to a folder with more room, or recover with 'bn-delta' alone"
            ) from None
        return mmap.mmap(file.fileno(), size)
