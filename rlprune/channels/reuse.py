"""Products that an earlier pass of a network computed from the very same numbers, and need no computing again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from rlprune.channels.forward import OperatorMode

_PRODUCTS = (torch.ops.aten.convolution.default, torch.ops.aten.mm.default, torch.ops.aten.addmm.default)
ROOM = 2**31  # bytes of tensors that are kept

Entry = tuple[tuple[Tensor, ...], tuple[int, ...]]  # operands and the result, how often they were written to


class Reuse:
    """Runs operators; products of a pass are those of the pass before it where these are the same.

    It must see every operator: memory that was written to since is not compared, and torch's own count of writes
    leaves out those to what `unsafe_chunk` and its like give.
    """

    def __init__(self) -> None:
        self._former: dict[Any, list[Entry]] = {}
        self._known: dict[Any, list[Entry]] = {}
        self._room = ROOM
        self._writes: Counter[int] = Counter()  # by storage; entries keep theirs alive

    @contextmanager
    def another_pass(self) -> Iterator[None]:
        """Around a pass; what the one before it knew is let go afterwards."""
        self._former, self._known, self._room = self._known, {}, ROOM
        yield
        self._former = {}

    def __call__(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run an operator."""
        if func._schema.is_mutable:
            self._writes.update(_storage(value) for value in (*args[:1], *kwargs.values()) if isinstance(value, Tensor))
        if func not in _PRODUCTS:
            return func(*args, **kwargs)
        operands = [arg for arg in args if isinstance(arg, Tensor)]
        rest = repr([arg for arg in args if not isinstance(arg, Tensor)]), repr(kwargs)
        key = func, rest, *((t.shape, t.stride(), t.dtype, t.device) for t in operands)
        entry = next((entry for entry in self._former.get(key, ()) if self._same(operands, entry)), None)
        result = func(*args, **kwargs) if entry is None else entry[0][-1].clone()
        kept = (*operands, result)
        self._room -= sum(t.nbytes for t in kept)
        if self._room > 0:
            self._known.setdefault(key, []).append((kept, tuple(map(self._written, kept))))
        return result

    def _written(self, tensor: Tensor) -> int:
        return self._writes[_storage(tensor)]

    def _same(self, operands: list[Tensor], entry: Entry) -> bool:
        """Whether tensors of the same make hold the same numbers as those of an entry, which nothing was written to."""
        return all(self._written(t) == count for t, count in zip(*entry, strict=True)) and all(
            (_storage(old) == _storage(new) and old.storage_offset() == new.storage_offset()) or torch.equal(old, new)
            for old, new in reversed([*zip(entry[0], operands, strict=False)])
        )


def _storage(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


class Reusing(OperatorMode):
    """Runs every operator so."""

    def __init__(self, reuse: Reuse) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._reuse = reuse

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return self._reuse(func, args, kwargs or {})
