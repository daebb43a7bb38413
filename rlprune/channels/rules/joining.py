"""Rules of what is put together: writes, concatenation, padding, and blocks of channels that become pixels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import numpy as np
from torch import Tensor

from rlprune.channels.labels import Bare, Entry, Fixed, Labels
from rlprune.channels.rules.base import Op, mix, put_moved, rule
from rlprune.channels.rules.pointwise import along, attach
from rlprune.channels.trace import Trace
from rlprune.channels.units import IntArray


@rule("index_put", "_index_put_impl", "_unsafe_index_put")
def index_put(trace: Trace, op: Op) -> None:
    """Values written at positions along the first axis, when the channels lie along another."""
    target, indices, values = op.args[:3]
    entry, source = trace.get(target), trace.get(values)
    reason = f"it is written into a part of another tensor ({op.name})"
    for index in indices:
        if index is not None:
            trace.lock(trace.get(index), f"its values decide which positions of another tensor are written ({op.name})")
    if len(indices) == 1 and indices[0].ndim == 1 and isinstance(source, Labels) and source.axis is not None:
        place = source.axis + target.ndim - values.ndim
        if place > 0 and target.shape[place] == len(source.vector) and (entry is None or isinstance(entry, Labels)):
            if entry is None:
                trace.put(op.out, Labels(place, source.vector))
                return
            if isinstance(entry, Labels) and entry.axis == place:
                trace.book.unite(entry.vector, source.vector)
                trace.put(op.out, entry)
                return
    mix(trace, op, reason)


@rule("index_copy", "index_add", "slice_scatter")
def written_along(trace: Trace, op: Op) -> None:
    """Values written at positions along one axis, when the channels lie along another: those of both go together."""
    target = op.args[0]
    values = op.arg(1, "src") if op.name == "slice_scatter" else op.arg(3, "source")
    axis = int(op.arg(2, "dim", 0) if op.name == "slice_scatter" else op.arg(1, "dim")) % max(target.ndim, 1)
    for index in op.inputs:
        if index is not target and index is not values:
            trace.lock(trace.get(index), f"its values decide which positions of another tensor are written ({op.name})")
    tensors = (target, values)
    entries = (trace.labels(target), trace.get(values)) if op.out is target else tuple(map(trace.get, tensors))
    axes = {entry.axis for entry in entries if isinstance(entry, Labels)}
    if len(axes) != 1 or None in axes or axis in axes:
        mix(trace, op, f"it is written into a part of another tensor ({op.name})")
    else:
        trace.put(op.out, _side_by_side(trace, op, tensors, entries, cast(int, axes.pop()), axis, False))


@rule("cat", "stack", "concat", "concatenate")
def concatenation(trace: Trace, op: Op) -> None:
    """Tensors end to end; along the channel axis their labels are, too."""
    tensors: list[Tensor] = [t for t in op.args[0] if not (t.ndim == 1 and t.numel() == 0)]
    new_axis = op.name == "stack"
    axis = int(op.arg(1, "dim", 0)) % op.out.ndim
    entries = [trace.get(tensor) for tensor in tensors]
    axes = {
        entry.axis + (1 if new_axis and entry.axis >= axis else 0)
        for entry in entries
        if isinstance(entry, Labels) and entry.axis is not None
    }
    if not any(isinstance(entry, Labels) for entry in entries):
        if len(entries) == 1 and not new_axis:
            trace.put(op.out, entries[0])
        else:
            mix(trace, op, f"it joins a concatenation of fixed tensors ({op.name})")
    elif len(axes) > 1:
        mix(trace, op, f"channels lie along different axes ({op.name})")
    elif not axes or axes == {axis}:
        trace.put(op.out, _end_to_end(trace, op, tensors, entries, axis, new_axis))
    else:
        trace.put(op.out, _side_by_side(trace, op, tensors, entries, axes.pop(), axis, new_axis))


def _end_to_end(
    trace: Trace, op: Op, tensors: Sequence[Tensor], entries: Sequence[Entry], axis: int, new_axis: bool
) -> Labels:
    vectors = []
    for tensor, entry in zip(tensors, entries, strict=True):
        size = 1 if new_axis else tensor.shape[axis]
        if isinstance(entry, Labels):
            vectors.append(along(entry, size))
            continue
        reason = f"channels of a fixed tensor join it ({op.name})"
        trace.lock(entry, reason)
        vectors.append(np.full(size, trace.book.reason(reason), dtype=np.int64))
    vector = np.concatenate(vectors)
    trace.book.mark(vector, "concatenated")
    return Labels(axis, vector)


def _side_by_side(
    trace: Trace, op: Op, tensors: Sequence[Tensor], entries: Sequence[Entry], channels: int, axis: int, new_axis: bool
) -> Labels:
    """Concatenation along another axis than the channels': their labels meet."""
    result: IntArray | None = None
    for entry in entries:
        if isinstance(entry, Labels) and entry.axis is not None:
            if result is not None:
                trace.book.unite(result, entry.vector)
            result = entry.vector if result is None else np.where(result > 0, result, entry.vector)
    result = cast(IntArray, result)
    place = channels - (1 if new_axis and channels > axis else 0)
    for tensor, entry in zip(tensors, entries, strict=True):
        if isinstance(entry, Labels) and entry.axis is None:
            trace.book.unite(result, along(entry, len(result)))
        elif isinstance(entry, Fixed) and tensor.shape[place] > 1:
            trace.book.lock(result, entry.reason)
        elif isinstance(entry, Bare):
            attach(trace, entry, place, result, "scale", op.name)
    return Labels(channels, result)


@rule("_pack_padded_sequence", "_pad_packed_sequence")
def packed(trace: Trace, op: Op) -> None:
    """Sequences of several lengths one after the other, and back; their features are the last axis."""
    tensor, out = op.args[0], op.outputs[0]
    entry = trace.get(tensor)
    if isinstance(entry, Labels) and entry.axis not in (None, tensor.ndim - 1):
        mix(trace, op, f"its channels lie along an axis that sequences are cut along ({op.name})")
        return
    put_moved(trace, op, None if isinstance(entry, Labels) else entry)
    if isinstance(entry, Labels):
        trace.put(out, Labels(None if entry.axis is None else out.ndim - 1, entry.vector))


@rule("constant_pad_nd")
def constant_pad(trace: Trace, op: Op) -> None:
    """Padding; what is padded on the channel axis must stay."""
    tensor, pads = op.args[0], list(op.args[1])
    entry = trace.get(tensor)
    if not isinstance(entry, Labels):
        put_moved(trace, op, entry)
        return
    for i in range(len(pads) // 2):
        at, (before, after) = tensor.ndim - 1 - i, pads[2 * i : 2 * i + 2]
        if not before and not after:
            continue
        if entry.axis is None:
            mix(trace, op, f"a single channel is padded ({op.name})")
            return
        if at == entry.axis:
            if before < 0 or after < 0:
                trace.lock(entry, f"channels are cropped at fixed places ({op.name})")
            code = trace.book.reason(f"padded channels join it ({op.name})")
            vector = np.pad(entry.vector, (max(before, 0), max(after, 0)), constant_values=code)
            entry = Labels(at, vector[max(-before, 0) : len(vector) - max(-after, 0)])
    trace.put(op.out, entry)


@rule("pixel_shuffle")
def pixel_shuffle(trace: Trace, op: Op) -> None:
    """(C r^2, H, W) -> (C, H r, W r): the r^2 channels of a block go together."""
    _blocks(trace, op, op.args[0].ndim - 3, int(op.args[1]) ** 2)


@rule("col2im")
def col2im(trace: Trace, op: Op) -> None:
    """(C k^2, L) -> (C, H, W): the k^2 rows of a channel go together."""
    _blocks(trace, op, op.args[0].ndim - 2, math.prod(op.args[2]))


def _blocks(trace: Trace, op: Op, axis: int, width: int) -> None:
    entry = trace.get(op.args[0])
    if isinstance(entry, Labels) and entry.axis == axis:
        table = entry.vector.reshape(-1, width)
        for column in range(1, width):
            trace.book.unite(table[:, 0], table[:, column])
        trace.put(op.out, Labels(axis, table[:, 0].copy()))
    else:
        mix(trace, op, f"its channels lie along an axis that {op.name} keeps fixed")


@rule("pixel_unshuffle", "im2col")
def widen(trace: Trace, op: Op) -> None:
    """(C, ...) -> (C r^2, ...): every channel becomes r^2 of them, side by side."""
    tensor = op.args[0]
    entry = trace.get(tensor)
    width = int(op.args[1]) ** 2 if op.name == "pixel_unshuffle" else math.prod(op.args[1])
    if isinstance(entry, Labels) and entry.axis == tensor.ndim - 3:
        trace.put(op.out, Labels(entry.axis, np.repeat(entry.vector, width)))
    else:
        mix(trace, op, f"its channels lie along an axis that {op.name} keeps fixed")
