"""Rules of data movement: views, copies, cuts, indices and concatenation, executed on the labels themselves."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from rlprune.channels.labels import Bare, Entry, Fixed, Labels, Lost, Part, spread, varying_axes
from rlprune.channels.rules.base import Op, mix, put_moved, rule
from rlprune.channels.trace import UNSET, Trace

EMPTY = "it runs on an empty tensor: the example input gives it no data"


def settle(trace: Trace, labels: Tensor, keep: Callable[[list[int], Tensor], int]) -> Entry:
    """An executed label tensor as an entry; `keep` says along which axis channels stay separate if there are two."""
    small, axes = varying_axes(labels)
    if not axes:
        value = small.reshape(-1)[:1].numpy().copy()
        return Labels(None, value) if value[0] > 0 else Fixed(int(value[0]))
    if len(axes) == 1:
        return Labels(axes[0], small.reshape(-1).numpy().copy())
    return trace.book.collapse(small, keep(axes, labels))


def move(
    trace: Trace,
    op: Op,
    tensor: Tensor,
    run: Callable[[Tensor], Any],
    keep: Callable[[list[int], Tensor], int] = lambda axes, labels: max(axes, key=lambda a: labels.shape[a]),
) -> None:
    """Execute an operator on the labels of its input and give the results to its outputs."""
    entry = trace.get(tensor)
    if isinstance(entry, Labels):
        if tensor.numel() == 0 or any(out.numel() == 0 for out in op.outputs):
            mix(trace, op, EMPTY, [tensor])
            return
        for out, labels in zip(op.outputs, _listed(run(spread(entry, tuple(tensor.shape)))), strict=True):
            trace.put(out, settle(trace, labels, keep))
    elif isinstance(entry, Bare):
        for out, result in zip(op.outputs, _bare_move(op, tensor, entry, run), strict=True):
            trace.put(out, result)
    else:
        for out in op.outputs:
            trace.put(out, entry)


def _listed(result: Any) -> list[Tensor]:
    return list(result) if isinstance(result, (list, tuple)) else [result]


def _bare_move(op: Op, tensor: Tensor, entry: Bare, run: Callable[[Tensor], Any]) -> list[Bare]:
    """A bare parameter through data movement: follow the index of each dimension."""
    count = len(op.outputs)
    results: list[list[Part]] = []
    for part in entry.parts:
        moved: list[list[Labels | Lost | None]] = []
        for where in part.where:
            if isinstance(where, Labels):
                moved.append([_index_entry(t) for t in _listed(run(spread(where, tuple(tensor.shape))))])
            elif isinstance(where, Lost):
                moved.append(_moved_axes(where, tuple(tensor.shape), run, count))
            else:
                moved.append([where] * count)
        results.append([Part(part.name, tuple(dim[i] for dim in moved)) for i in range(count)])
    return [Bare(tuple(parts[i] for parts in results)) for i in range(count)]


def _index_entry(labels: Tensor) -> Labels | Lost:
    if labels.numel() == 0:
        return Lost(frozenset(range(labels.ndim)))
    small, axes = varying_axes(labels)
    if len(axes) == 1:
        return Labels(axes[0], small.reshape(-1).numpy().copy())
    return Lost(frozenset(axes or range(labels.ndim)))


def _moved_axes(
    lost: Lost, shape: tuple[int, ...], run: Callable[[Tensor], Any], count: int
) -> list[Labels | Lost | None]:
    """Where the axes went along which an index varies."""
    axes: list[set[int]] = [set() for _ in range(count)]
    for axis in lost.axes:
        for found, moved in zip(axes, _listed(run(spread(Labels(axis, np.arange(shape[axis])), shape))), strict=True):
            found.update(varying_axes(moved)[1] if moved.numel() else range(moved.ndim))
    return [Lost(frozenset(found)) for found in axes]


@rule("clone", "contiguous", "detach", "alias", "_to_copy", "to", "lift_fresh", "lift", "_conj", "resolve_conj",
      "resolve_neg", "detach_copy", "alias_copy")  # fmt: skip
def same(trace: Trace, op: Op) -> None:
    """Copies of everything."""
    trace.put(op.out, trace.get(op.inputs[0]))


@rule("view", "_unsafe_view", "reshape", "_reshape_alias", "view_copy")
def view(trace: Trace, op: Op) -> None:
    """Reshapes; when channels are split over two axes, those along the axis of fixed size are united."""

    def growing(axes: list[int], labels: Tensor) -> int:
        heads = [axis for axis in axes if labels.shape[axis] in trace.head_counts]
        outer = [axis for axis in heads if axis < labels.ndim - 1] or heads
        if outer:  # (queries, keys, values), heads, width of a head
            return outer[-1]
        if axes == [1, 2, 3] and op.inputs[0].ndim == 2 and labels.shape[2] == labels.shape[3]:
            return 1  # a vector as maps of a square
        sizes = op.arg(1, "size")
        dynamic = [axis for axis in axes if isinstance(sizes, (list, tuple)) and sizes[axis] == -1]
        return dynamic[0] if dynamic else max(axes, key=lambda axis: (labels.shape[axis], axis))

    if isinstance(op.arg(1, "size"), torch.dtype):
        mix(trace, op, f"its bits are reinterpreted ({op.name})")
        return
    move(trace, op, op.inputs[0], lambda labels: labels.reshape(op.out.shape), growing)


@rule("permute", "transpose", "t", "numpy_T", "squeeze", "unsqueeze", "expand", "repeat", "movedim", "swapaxes", "flip",
      "expand_copy", "permute_copy", "rot90")  # fmt: skip
def movement(trace: Trace, op: Op) -> None:
    """Views and copies that keep whole axes together."""
    move(trace, op, op.inputs[0], lambda labels: op.func(labels, *op.args[1:], **op.kwargs))


@rule("channel_shuffle", "native_channel_shuffle")
def channel_shuffle(trace: Trace, op: Op) -> None:
    """Channels (g, C / g) transposed: those at the same place of every group go together."""
    tensor, groups = op.args[0], int(op.args[1])
    entry = trace.get(tensor)
    if isinstance(entry, Labels) and entry.axis == tensor.ndim - 3:
        table = entry.vector.reshape(groups, -1)
        for row in table[1:]:
            trace.book.unite(table[0], row)
        trace.put(op.out, Labels(entry.axis, table.T.ravel().copy()))
    else:
        mix(trace, op, f"its channels lie along an axis that {op.name} keeps fixed")


@rule("split", "split_with_sizes", "unsafe_split", "unsafe_split_with_sizes", "split_copy")
def split(trace: Trace, op: Op) -> None:
    """Parts along an axis; along the channel axis the i-th channels of equal parts go together."""
    tensor = op.args[0]
    axis = int(op.arg(2, "dim", 0)) % tensor.ndim
    edges = np.cumsum([0, *(out.shape[axis] for out in op.outputs)]).tolist()
    _cut(trace, op, tensor, axis, list(pairwise(edges)))


@rule("slice", "slice_copy", "narrow")
def slicing(trace: Trace, op: Op) -> None:
    """A range along an axis."""
    tensor = op.args[0]
    axis = int(op.arg(1, "dim", 0)) % tensor.ndim
    if op.name == "narrow":
        start, stop, step = int(op.args[2]), int(op.args[2]) + int(op.args[3]), 1
    else:
        start, stop, _ = slice(op.arg(2, "start"), op.arg(3, "end")).indices(tensor.shape[axis])
        step = int(op.arg(4, "step", 1))
    entry = trace.get(tensor)
    if step != 1 and isinstance(entry, Labels) and entry.axis == axis:
        trace.lock(entry, f"a slice takes every {step}th channel ({op.name})")
        trace.put(op.out, Labels(axis, entry.vector[start:stop:step]))
    elif step != 1:
        move(trace, op, tensor, lambda labels: op.func(labels, *op.args[1:], **op.kwargs))
    else:
        _cut(trace, op, tensor, axis, [(start, max(stop, start))])


def _cut(trace: Trace, op: Op, tensor: Tensor, axis: int, ranges: list[tuple[int, int]]) -> None:
    """Ranges along the channel axis: if they are in a fixed proportion, whole multiples of the pattern go."""
    entry = trace.get(tensor)
    size = tensor.shape[axis]
    if not isinstance(entry, Labels) or entry.axis != axis or all(pair == (0, size) for pair in ranges):
        move(trace, op, tensor, lambda labels: op.func(labels, *op.args[1:], **op.kwargs))
        return
    period = math.gcd(size, *[edge for pair in ranges for edge in pair])
    code = trace.book.reason(UNSET)
    if all((entry.vector[start:stop] == code).all() for start, stop in ranges):
        pass  # a place to write into
    elif period < 2:
        trace.lock(entry, f"channels are cut at fixed or uneven places ({op.name})")
    else:
        table = entry.vector.reshape(-1, period)
        for row in table[1:]:
            trace.book.unite(table[0], row)
    for out, (start, stop) in zip(op.outputs, ranges, strict=True):
        trace.put(out, Labels(axis, entry.vector[start:stop]))


@rule("select", "unbind", "select_copy", "unbind_copy")
def pick(trace: Trace, op: Op) -> None:
    """Single positions along an axis, which disappears."""
    tensor = op.args[0]
    axis = int(op.arg(1, "dim", 0)) % tensor.ndim
    entry = trace.get(tensor)
    if isinstance(entry, Labels) and entry.axis == axis:
        mix(trace, op, f"single channels are picked by their number ({op.name})")
        return
    move(trace, op, tensor, lambda labels: op.func(labels, *op.args[1:], **op.kwargs))
    if isinstance(entry, Bare):
        rows = _rows_stay(trace, op, entry, axis)
        for out in op.outputs:
            parts = [
                replace(part, where=tuple(None if (part.name, d) in rows else w for d, w in enumerate(part.where)))
                for part in cast(Bare, trace.get(out)).parts
            ]
            trace.put(out, Bare(tuple(parts)))


def _rows_stay(trace: Trace, op: Op, entry: Bare, axis: int) -> set[tuple[str, int]]:
    """Lock the dimensions of parameters along an axis whose positions are picked by number; returns which."""
    found = set()
    for part in entry.parts:
        for dim, where in enumerate(part.where):
            if isinstance(where, Labels) and where.axis == axis:
                trace.book.lock(trace.site(part.name, dim), trace.book.reason(f"rows are picked ({op.name})"))
                found.add((part.name, dim))
    return found


@rule("index", "index_select", "_unsafe_index")
def indexing(trace: Trace, op: Op) -> None:
    """Index tensors; those on the channel axis are positions that must stay."""
    tensor = op.args[0]
    entry = trace.get(tensor)
    if op.name == "index_select":
        indices = [None] * (int(op.args[1]) % tensor.ndim) + [op.args[2].cpu()]
    else:
        indices = [None if i is None else i.cpu() for i in op.args[1]]
    for index in op.inputs[1:]:
        trace.lock(trace.get(index), f"its values decide which positions of another tensor are taken ({op.name})")
    if isinstance(entry, Bare) and all(index is None for index in indices[1:]) and op.out.numel():
        _rows_stay(trace, op, entry, 0)  # a table by number (of relative positions)
        picks = tuple(slice(None) if index is None else index for index in indices)
        move(trace, op, tensor, lambda labels: labels[picks])
        return
    if not isinstance(entry, Labels):
        put_moved(trace, op, entry)
        return
    taken = 0
    for index in indices:
        width = 0 if index is None else (index.ndim if index.dtype in (torch.bool, torch.uint8) else 1)
        if width and entry.axis is not None and taken <= entry.axis < taken + width:
            mix(trace, op, f"channels are picked by their numbers ({op.name})", [tensor])
            return
        taken += width or 1
    picked = tuple(slice(None) if i is None else i for i in indices)
    move(trace, op, tensor, lambda labels: labels[picked], lambda axes, labels: axes[-1])


@rule("gather")
def gathered(trace: Trace, op: Op) -> None:
    """Values by number along one axis, the same numbers for every channel along another."""
    tensor, index = op.args[0], op.arg(2, "index")
    axis = int(op.arg(1, "dim")) % max(tensor.ndim, 1)
    entry = trace.get(tensor)
    trace.lock(trace.get(index), f"its values decide which positions of another tensor are taken ({op.name})")
    along = entry.axis if isinstance(entry, Labels) else None
    if along in (None, axis) or index.shape[along] != len(cast(Labels, entry).vector) or not _alike(index, along):
        mix(trace, op, f"channels are picked by their numbers ({op.name})", [tensor])
    else:
        trace.put(op.out, entry)


def _alike(index: Tensor, axis: int) -> bool:
    return bool((index == index.narrow(axis, 0, 1)).all())


@rule("as_strided", "as_strided_copy")
def as_strided(trace: Trace, op: Op) -> None:
    """A view by strides: labels are laid out in memory as the data are."""
    tensor = op.args[0]
    if op.out is tensor:  # in place, so that the strides of before are not known
        if not isinstance(trace.get(tensor), Labels) or tuple(op.args[1]) == tuple(tensor.shape):
            return
        mix(trace, op, f"it is viewed by strides in place ({op.name})")
        return
    size, stride, offset = op.args[1], op.args[2], op.arg(3, "storage_offset")
    count = tensor.untyped_storage().nbytes() // tensor.element_size()
    start = tensor.storage_offset() if offset is None else int(offset)

    def run(labels: Tensor) -> Tensor:
        memory = torch.zeros(count, dtype=torch.int64)
        memory.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset()).copy_(labels)
        return memory.as_strided(size, stride, start)

    move(trace, op, tensor, run)


@rule("view_as_real", "view_as_complex", "view_as_real_copy", "view_as_complex_copy")
def complex_pairs(trace: Trace, op: Op) -> None:
    """Complex numbers as pairs along a new last axis, and back."""
    entry = trace.get(op.args[0])
    last = op.args[0].ndim - 1 if op.name.startswith("view_as_complex") else None
    if isinstance(entry, Labels) and last is not None and entry.axis == last:
        mix(trace, op, f"two channels become one number ({op.name})")
    elif isinstance(entry, Bare) and not any(isinstance(w, Lost) for part in entry.parts for w in part.where):
        apart = [[w if isinstance(w, Labels) and w.axis != last else None for w in part.where] for part in entry.parts]
        parts = (Part(part.name, tuple(where)) for part, where in zip(entry.parts, apart, strict=True))
        trace.put(op.out, Bare(tuple(parts)))
    else:
        put_moved(trace, op, entry)


@rule("_fft_r2c", "_fft_c2c", "_fft_c2r")
def fourier(trace: Trace, op: Op) -> None:
    """Fourier transforms, of other axes than the channels'."""
    tensor = op.args[0]
    entry = trace.get(tensor)
    if isinstance(entry, Labels) and (entry.axis is None or entry.axis in {int(d) % tensor.ndim for d in op.args[1]}):
        mix(trace, op, f"it mixes all channels ({op.name})")
    else:
        put_moved(trace, op, entry)


@rule("embedding", "_embedding_bag", "_embedding_bag_forward_only")
def embedding(trace: Trace, op: Op) -> None:
    """Rows of a table by number, or sums of such: its columns are channels."""
    table, *numbers = op.inputs
    entry, out = trace.get(table), op.outputs[0]
    for indices in numbers:
        trace.lock(trace.get(indices), f"its values decide which positions of another tensor are taken ({op.name})")
    if isinstance(entry, Bare) and len(entry.parts) == 1:
        part = entry.parts[0]
        where = part.where[1] if len(part.where) == 2 else None
        if isinstance(where, Labels) and where.axis == 1 and isinstance(part.where[0], Labels):
            trace.put(out, Labels(out.ndim - 1, trace.site(part.name, 1)[where.vector]))
            return
    mix(trace, op, f"rows are picked by their numbers ({op.name})")


@rule("roll", "unfold")
def fixed_step(trace: Trace, op: Op) -> None:
    """Shifts by a fixed number and sliding windows, along other axes than the channels'."""
    tensor = op.args[0]
    entry = trace.get(tensor)
    dims = op.arg(2, "dims", ()) if op.name == "roll" else [op.args[1]]
    axes = [int(d) % tensor.ndim for d in dims] or list(range(tensor.ndim))
    if isinstance(entry, Labels) and (entry.axis is None or entry.axis in axes):
        mix(trace, op, f"channels are shifted or cut by a fixed number ({op.name})")
    else:
        put_moved(trace, op, entry)
