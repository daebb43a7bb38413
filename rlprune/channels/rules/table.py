"""The table of rules at work: one executed operator after the other."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from rlprune.channels.labels import Bare, Labels
from rlprune.channels.rules import joining, layers, mixing, moving, products
from rlprune.channels.rules.base import Op, find_rule, unknown
from rlprune.channels.rules.pointwise import elementwise
from rlprune.channels.trace import UNSET, Trace

assert joining and layers and mixing and moving and products  # imported for the rules they enter


def apply(trace: Trace, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """Carry labels through one executed operator."""
    op = Op(func, args, kwargs, out)
    trace.follow(op.inputs, op.outputs)
    written = None
    if func._schema.is_mutable and args and isinstance(args[0], Tensor):
        written = (args[0], trace.labels(args[0]))
    found = find_rule(func)
    if found is not None:
        found(trace, op)
    elif torch.Tag.pointwise in func.tags:
        elementwise(trace, op)
    else:
        unknown(trace, op)
    if written is not None:
        _write_through(trace, op, *written)


def known(func: Any) -> bool:
    """Whether there is a rule for an operator."""
    return find_rule(func) is not None or torch.Tag.pointwise in func.tags


def _write_through(trace: Trace, op: Op, tensor: Tensor, before: Labels | None) -> None:
    """After an in-place change gave a tensor labels: other tensors in the same memory hold them too, or parts."""
    after = trace.get(tensor)
    if before is not None or not isinstance(after, Labels):
        return
    others = trace.sharing(tensor)
    count = tensor.untyped_storage().nbytes() // tensor.element_size()
    base = next((t for t in (tensor, *others) if t.numel() == count and t.dtype == tensor.dtype), None)
    for other in others:
        if not _seen_through(trace, tensor, after, other, base):
            reason = f"it is written into a part of another tensor in place ({op.name})"
            trace.lock(after, reason)
            trace.lock(trace.get(other), reason)
            if not isinstance(trace.get(other), Labels):
                trace.put(other, trace.fixed(reason))


def _seen_through(trace: Trace, tensor: Tensor, written: Labels, other: Tensor, base: Tensor | None) -> bool:
    """Give another view of the memory the labels that were written into one; False if it cannot be told which.

    Views are compared along the channel axis alone: their ranges of the channels of `base`, which is the whole memory.
    """
    entry = trace.get(other)
    if (
        tensor.shape == other.shape
        and tensor.stride() == other.stride()
        and tensor.storage_offset() == other.storage_offset()
    ):
        trace.put(other, written)
        return True
    if base is None or written.axis is None or isinstance(entry, Bare):
        return False
    stride = tensor.stride(written.axis)
    place, root = _axis_of(other, stride), _axis_of(base, stride)
    if place is None or root is None or (isinstance(entry, Labels) and entry.axis != place):
        return False
    width = base.shape[root]
    begin, at = (t.storage_offset() // stride % width for t in (tensor, other))
    low, high = max(begin, at), min(begin + len(written.vector), at + other.shape[place])
    if low >= high:
        return True  # other channels
    unset = trace.book.reason(UNSET)
    if isinstance(entry, Labels):
        old = entry.vector.copy()
    else:
        old = np.full(other.shape[place], unset if entry is None else entry.reason, dtype=np.int64)
    here, there = slice(low - at, high - at), slice(low - begin, high - begin)
    new = written.vector[there]
    met = old[here] != unset
    trace.book.unite(old[here][met], new[met])
    old[here] = np.where(old[here] > 0, old[here], new)
    trace.put(other, Labels(place, old))
    return True


def _axis_of(tensor: Tensor, stride: int) -> int | None:
    """The one axis with this stride."""
    axes = [d for d in range(tensor.ndim) if tensor.shape[d] > 1 and tensor.stride(d) == stride]
    return axes[0] if len(axes) == 1 else None
