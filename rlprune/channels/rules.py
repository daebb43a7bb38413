"""What each operator does to labels.

One function per family of operators, in a table by operator name. An operator that is not in the table and is not
element-wise locks the labels that go into it, so a new operator costs coverage and never correctness.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor

from rlprune.channels.groups import IntArray
from rlprune.channels.labels import Bare, Entry, Fixed, Labels, Part, spread, varying_axes

if TYPE_CHECKING:
    from rlprune.channels.tracing import Trace

Rule = Callable[["Trace", "Op"], None]


class Op:
    """One executed operator: its name, its arguments by name, its outputs."""

    def __init__(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
        self.func = func
        self.name: str = func._schema.name.split("::")[-1]
        self.args = args
        self.kwargs = kwargs
        self.out = out

    def arg(self, position: int, name: str, default: Any = None) -> Any:
        """An argument by position or name."""
        if position < len(self.args):
            return self.args[position]
        return self.kwargs.get(name, default)

    @property
    def inputs(self) -> list[Tensor]:
        """All tensors among the arguments."""
        found: list[Tensor] = []
        for value in (*self.args, *self.kwargs.values()):
            if isinstance(value, Tensor):
                found.append(value)
            elif isinstance(value, (list, tuple)):
                found.extend(item for item in value if isinstance(item, Tensor))
        return found

    @property
    def outputs(self) -> list[Tensor]:
        """All tensors among the results."""
        values = self.out if isinstance(self.out, (list, tuple)) else [self.out]
        return [value for value in values if isinstance(value, Tensor)]


RULES: dict[str, Rule] = {}


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Enter a function as the rule of operators."""

    def enter(function: Rule) -> Rule:
        for name in names:
            RULES[name] = function
        return function

    return enter


def apply(trace: Trace, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """Carry labels through one executed operator."""
    op = Op(func, args, kwargs, out)
    writes = [
        value
        for value, argument in zip(args, func._schema.arguments, strict=False)
        if isinstance(value, Tensor) and argument.alias_info is not None and argument.alias_info.is_write
    ]
    before = [(tensor, trace.get(tensor)) for tensor in writes]
    found = RULES.get(op.name) or RULES.get(op.name.rstrip("_"))
    if found is not None:
        found(trace, op)
    elif torch.Tag.pointwise in func.tags:
        elementwise(trace, op)
    else:
        unknown(trace, op)
    for tensor, entry in before:
        _write_through(trace, op, tensor, entry)


def _write_through(trace: Trace, op: Op, tensor: Tensor, before: Entry) -> None:
    """After an in-place change: other tensors in the same memory now hold the new labels, or parts of them."""
    after = trace.get(tensor)
    if after is before or isinstance(before, Labels):
        if not isinstance(before, Labels) or op.name.rstrip("_") not in ("copy", "index_put", "fill", "zero"):
            return
        if after is before:
            return
    for other in trace.sharing(tensor):
        if other.shape == tensor.shape and other.stride() == tensor.stride():
            trace.put(other, after)
        else:
            reason = f"it is written into a part of another tensor in place ({op.name})"
            trace.lock(after, reason)
            trace.lock(trace.get(other), reason)
            if not isinstance(trace.get(other), (Bare, Labels)):
                trace.put(other, trace.fixed(reason))


def unknown(trace: Trace, op: Op) -> None:
    """An operator without a rule: lock what goes in; what comes out has a fixed size."""
    entries = [trace.get(tensor) for tensor in op.inputs]
    mix(trace, op, f"operator {op.name} is not known to act channel by channel", entries)


def mix(trace: Trace, op: Op, reason: str, entries: Sequence[Entry]) -> None:
    """Lock all entries; outputs are fixed, or free if nothing with a fixed size went in."""
    for entry in entries:
        trace.lock(entry, reason)
    fixed = any(entry is not None for entry in entries)
    for tensor in op.outputs:
        if any(tensor is source for source in op.inputs) and isinstance(trace.get(tensor), Labels):
            continue
        trace.put(tensor, trace.fixed(reason) if fixed and tensor.numel() != 1 else None)


# --- element-wise ----------------------------------------------------------------------------------------------------


def aligned(entry: Labels, ndim: int, out_ndim: int) -> int | None:
    """The axis of the labels in a broadcast result."""
    return None if entry.axis is None else entry.axis + out_ndim - ndim


@rule("_prelu_kernel", "hardswish", "hardsigmoid", "copy", "where", "lerp", "masked_fill", "rrelu_with_noise")
def elementwise(trace: Trace, op: Op) -> None:
    """Broadcast the operands and unite the labels that meet."""
    for out in op.outputs:
        trace.put(out, join(trace, op.inputs, out.shape, op.name, in_place=op.name == "copy_"))


def join(trace: Trace, operands: Sequence[Tensor], shape: Sequence[int], name: str, in_place: bool = False) -> Entry:
    """The entry of an element-wise function of some tensors; unites their labels on the way."""
    ndim = len(shape)
    pairs = [(tensor, trace.get(tensor)) for tensor in operands if tensor.ndim <= ndim]
    if in_place and not isinstance(pairs[0][1], Labels):
        pairs = pairs[1:]
    labelled = [(tensor, entry) for tensor, entry in pairs if isinstance(entry, Labels)]
    if not labelled:
        return _join_unlabelled(trace, pairs, shape, name)
    axes = {a for tensor, entry in labelled if (a := aligned(entry, tensor.ndim, ndim)) is not None}
    if len(axes) > 1:
        reason = f"channels of two tensors meet crosswise ({name})"
        for _, entry in labelled:
            trace.lock(entry, reason)
        return trace.fixed(reason)
    if not axes:
        return _join_scalars(trace, pairs, shape, name)
    axis = axes.pop()
    size = shape[axis]
    result: IntArray | None = None
    features = 0
    for tensor, entry in pairs:
        position = axis - (ndim - tensor.ndim)
        extent = tensor.shape[position] if position >= 0 else 1
        if isinstance(entry, Labels):
            if extent == 1 and size > 1:  # one value for all channels: a gate
                trace.lock(entry, f"one channel is spread over several others ({name})")
                continue
            vector = entry.vector if entry.axis is not None else np.repeat(entry.vector, size)
            if result is not None and vector is not result:
                features += 1
                trace.book.unite(result, vector)
                result = np.where(result > 0, result, vector)
            else:
                result = vector
    if result is None:
        return trace.fixed(f"one channel is spread over several others ({name})")
    if features and name.rstrip("_") in ("add", "sub", "rsub"):
        trace.book.mark(result, "residual")
    for tensor, entry in pairs:
        position = axis - (ndim - tensor.ndim)
        extent = tensor.shape[position] if position >= 0 else 1
        if isinstance(entry, Fixed) and extent == size and size > 1:
            trace.book.lock(result, entry.reason)
        elif isinstance(entry, Bare) and extent == size and size > 1:
            attach(trace, entry, position, result, "scale", name)
    return Labels(axis, result)


def _join_unlabelled(trace: Trace, pairs: Sequence[tuple[Tensor, Entry]], shape: Sequence[int], name: str) -> Entry:
    bare = [(tensor, entry) for tensor, entry in pairs if isinstance(entry, Bare)]
    fixed = [(tensor, entry) for tensor, entry in pairs if isinstance(entry, Fixed)]
    if bare and not any(tensor.numel() > 1 for tensor, _ in fixed):
        parts = []
        for tensor, entry in bare:
            shift = len(shape) - tensor.ndim
            for part in entry.parts:
                where = tuple(
                    Labels(w.axis + shift, w.vector) if isinstance(w, Labels) and w.axis is not None else w
                    for w in part.where
                )
                parts.append(Part(part.name, where))
        return Bare(tuple(parts))
    if fixed:
        big = [entry for tensor, entry in fixed if tensor.numel() > 1]
        return (big or [entry for _, entry in fixed])[0]
    return None


def _join_scalars(trace: Trace, pairs: Sequence[tuple[Tensor, Entry]], shape: Sequence[int], name: str) -> Entry:
    """Operands that hold one label each."""
    result: Labels | None = None
    for tensor, entry in pairs:
        if isinstance(entry, Labels):
            if result is not None:
                trace.book.unite(result.vector, entry.vector)
            result = result or entry
        elif entry is not None and tensor.numel() > 1:
            for _, other in pairs:
                trace.lock(other, f"one channel is spread over several others ({name})")
            return trace.fixed(f"one channel is spread over several others ({name})")
    return result


def attach(trace: Trace, bare: Bare, axis: int, vector: IntArray, role: str, name: str) -> bool:
    """Tie a bare parameter to labels along one of its axes; False (and a lock) if that cannot be done."""
    done = True
    for part in bare.parts:
        here = [dim for dim, where in enumerate(part.where) if isinstance(where, Labels) and where.axis == axis]
        lost = any(where == "lost" for where in part.where)
        if not here and not lost:
            continue  # constant along the axis
        if lost or len(here) > 1:
            code = trace.book.reason(f"parameter {part.name} has its channels in no dimension of its own ({name})")
            trace.book.lock(vector, code)
            done = False
            continue
        where = cast(Labels, part.where[here[0]])
        trace.book.unite(trace.site(part.name, here[0], role)[where.vector], vector)
    return done


# --- data movement ---------------------------------------------------------------------------------------------------

_MOVES = (
    "view", "_unsafe_view", "reshape", "_reshape_alias", "permute", "transpose", "t", "numpy_T", "squeeze",
    "unsqueeze", "expand", "flatten", "unflatten", "clone", "contiguous", "detach", "alias", "_to_copy", "to",
    "lift_fresh", "lift", "repeat", "movedim", "swapaxes", "channel_shuffle", "flip", "unfold", "view_as_real",
    "native_channel_shuffle", "view_copy", "expand_copy", "broadcast_to", "_conj", "resolve_conj", "resolve_neg",
)  # fmt: skip
_SAME = {"clone", "contiguous", "detach", "alias", "_to_copy", "to", "lift_fresh", "lift", "_conj"}


def _execute(op: Op, labels: Tensor) -> Any:
    """Run a data-movement operator on labels in place of its first argument."""
    if op.name in ("view", "_unsafe_view", "reshape", "_reshape_alias", "view_copy"):
        return labels.reshape(op.out.shape)
    return op.func(labels, *op.args[1:], **op.kwargs)


def settle(trace: Trace, labels: Tensor, keep: Callable[[list[int], Tensor], int]) -> Entry:
    """An executed label tensor as an entry; `keep` says along which axis channels stay separate if there are two."""
    if labels.numel() == 0:
        return trace.fixed("it runs on an empty tensor: the example input gives it no data")
    small, axes = varying_axes(labels)
    if not axes:
        value = small.reshape(-1)[:1].numpy().copy()
        return Labels(None, value) if value[0] > 0 else Fixed(int(value[0]))
    if len(axes) == 1:
        return Labels(axes[0], small.reshape(-1).numpy().copy())
    return trace.book.collapse(small, keep(axes, labels))


def _bare_move(op: Op, tensor: Tensor, entry: Bare, run: Callable[[Tensor], Any]) -> list[Entry]:
    """A bare parameter through data movement: follow the index of each dimension."""
    results: list[list[Part]] = []
    for part in entry.parts:
        outs: list[list[Labels | str | None]] = []
        for where in part.where:
            if not isinstance(where, Labels):
                moved: list[Labels | str | None] = [where] * len(op.outputs)
            else:
                executed = run(spread(where, tuple(tensor.shape)))
                tensors = list(executed) if isinstance(executed, (list, tuple)) else [executed]
                moved = [_index_entry(labels) for labels in tensors]
            outs.append(moved)
        results.append([Part(part.name, tuple(dim[i] for dim in outs)) for i in range(len(op.outputs))])
    return [Bare(tuple(parts[i] for parts in results)) for i in range(len(op.outputs))]


def _index_entry(labels: Tensor) -> Labels | str | None:
    if labels.numel() == 0:
        return "lost"
    small, axes = varying_axes(labels)
    if not axes:
        return None if labels.numel() == 1 or int(small.reshape(-1)[0]) == 0 else "lost"
    return Labels(axes[0], small.reshape(-1).numpy().copy()) if len(axes) == 1 else "lost"


@rule(*_MOVES)
def movement(trace: Trace, op: Op) -> None:
    """Views and copies: executed on the labels themselves."""
    tensor = op.inputs[0]
    entry = trace.get(tensor)
    if op.name in _SAME:
        trace.put(op.out, entry)
    elif isinstance(entry, Labels):
        labels = _execute(op, spread(entry, tuple(tensor.shape)))
        trace.put(op.out, settle(trace, labels, lambda axes, t: _split_axis(op, axes, t)))
    elif isinstance(entry, Bare):
        (moved,) = _bare_move(op, tensor, entry, lambda labels: _execute(op, labels))
        trace.put(op.out, moved)
    else:
        trace.put(op.out, entry)


def _split_axis(op: Op, axes: list[int], labels: Tensor) -> int:
    """Which of several axes that channels were split into grows with their number: -1 in a view, else the largest."""
    if op.name in ("view", "reshape"):
        sizes = op.arg(1, "size")
        for axis in axes:
            if isinstance(sizes, (list, tuple)) and sizes[axis] == -1:
                return axis
    return max(axes, key=lambda axis: (labels.shape[axis], axis))


@rule("split", "split_with_sizes", "unsafe_split", "unsafe_chunk", "chunk", "tensor_split", "split_copy")
def split(trace: Trace, op: Op) -> None:
    """Parts along an axis; along the channel axis the i-th channels of equal parts go together."""
    tensor = op.args[0]
    axis = int(op.arg(2, "dim", 0)) % tensor.ndim
    sizes = [out.shape[axis] for out in op.outputs]
    edges = np.cumsum([0, *sizes]).tolist()
    _cut(trace, op, tensor, axis, list(pairwise(edges)))


@rule("slice")
def slicing(trace: Trace, op: Op) -> None:
    """A range along an axis."""
    tensor = op.args[0]
    axis = int(op.arg(1, "dim", 0)) % tensor.ndim
    start, stop, _ = slice(op.arg(2, "start"), op.arg(3, "end")).indices(tensor.shape[axis])
    step = int(op.arg(4, "step", 1))
    entry = trace.get(tensor)
    if isinstance(entry, Labels) and entry.axis == axis and step != 1:
        reason = f"a slice takes every {step}th channel ({op.name})"
        trace.lock(entry, reason)
        trace.put(op.out, Labels(axis, entry.vector[start:stop:step]))
    elif step != 1:
        _moved_out(trace, op, tensor, entry)
    else:
        _cut(trace, op, tensor, axis, [(start, stop)])


def _moved_out(trace: Trace, op: Op, tensor: Tensor, entry: Entry) -> None:
    if isinstance(entry, Labels):
        executed = op.func(spread(entry, tuple(tensor.shape)), *op.args[1:], **op.kwargs)
        tensors = list(executed) if isinstance(executed, (list, tuple)) else [executed]
        for out, labels in zip(op.outputs, tensors, strict=True):
            trace.put(out, settle(trace, labels, lambda axes, t: max(axes, key=lambda a: t.shape[a])))
    elif isinstance(entry, Bare):
        moved = _bare_move(op, tensor, entry, lambda labels: op.func(labels, *op.args[1:], **op.kwargs))
        for out, result in zip(op.outputs, moved, strict=True):
            trace.put(out, result)
    else:
        for out in op.outputs:
            trace.put(out, entry)


def _cut(trace: Trace, op: Op, tensor: Tensor, axis: int, ranges: list[tuple[int, int]]) -> None:
    entry = trace.get(tensor)
    whole = all(a == 0 and b == tensor.shape[axis] for a, b in ranges)
    if not isinstance(entry, Labels) or entry.axis != axis or whole:
        _moved_out(trace, op, tensor, entry)
        return
    size = tensor.shape[axis]
    period = math.gcd(size, *[edge for pair in ranges for edge in pair])
    reason = f"channels are cut at fixed or uneven places ({op.name})"
    if period < 2 or period == size:
        trace.lock(entry, reason)
    else:  # parts in a fixed proportion: whole multiples of the pattern go
        table = entry.vector.reshape(-1, period)
        for row in table[1:]:
            trace.book.unite(table[0], row)
    for out, (a, b) in zip(op.outputs, ranges, strict=True):
        trace.put(out, Labels(axis, entry.vector[a:b]))


@rule("select", "unbind", "select_copy")
def pick(trace: Trace, op: Op) -> None:
    """Single positions along an axis, which disappears."""
    tensor = op.args[0]
    axis = int(op.arg(1, "dim", 0)) % tensor.ndim
    entry = trace.get(tensor)
    if isinstance(entry, Labels) and entry.axis == axis:
        reason = f"single channels are picked by their number ({op.name})"
        trace.lock(entry, reason)
        for out in op.outputs:
            trace.put(out, trace.fixed(reason))
    else:
        _moved_out(trace, op, tensor, entry)


@rule("index", "index_select")
def indexing(trace: Trace, op: Op) -> None:
    """Index tensors; those on the channel axis are positions that must stay."""
    tensor = op.args[0]
    entry = trace.get(tensor)
    if op.name == "index":
        indices = [i if i is None else i.cpu() for i in op.args[1]]
    else:
        indices = [None] * (int(op.args[1]) % tensor.ndim) + [op.args[2].cpu()]
    for index in op.inputs[1:]:
        trace.lock(trace.get(index), f"it decides which positions are taken ({op.name})")
    if not isinstance(entry, Labels):
        if isinstance(entry, Bare):
            entry = trace.fixed(f"it joins a parameter picked by indices ({op.name})")
        trace.put(op.out, entry)
        return
    shape = tuple(tensor.shape)
    taken = 0
    for index in indices:
        width = 0 if index is None else (index.ndim if index.dtype == torch.bool else 1)
        if width and entry.axis is not None and taken <= entry.axis < taken + width:
            reason = f"channels are picked by their numbers ({op.name})"
            trace.lock(entry, reason)
            trace.put(op.out, trace.fixed(reason))
            return
        taken += width or 1
    labels = spread(entry, shape)[tuple(slice(None) if i is None else i for i in indices)]
    trace.put(op.out, settle(trace, labels, lambda axes, t: axes[-1]))


@rule("index_put", "_index_put_impl", "_unsafe_index_put")
def index_put(trace: Trace, op: Op) -> None:
    """Values written at index positions of other axes than the channels'."""
    target, indices, values = op.args[:3]
    entry, source = trace.get(target), trace.get(values)
    for index in indices:
        if index is not None:
            trace.lock(trace.get(index), f"it decides which positions are written ({op.name})")
    reason = f"it is written into a part of another tensor ({op.name})"
    leading = [i for i, index in enumerate(indices) if index is not None]
    axis = source.axis if isinstance(source, Labels) else None
    if axis is not None and leading == [0] and values.ndim > 1 and axis > 0:
        index = indices[0]
        place = axis - 1 + (index.ndim if index.dtype == torch.bool else 1)
        if place < target.ndim and target.shape[place] == values.shape[axis]:
            vector = cast(Labels, source).vector
            if isinstance(entry, Labels) and entry.axis == place:
                trace.book.unite(entry.vector, vector)
            elif entry is not None:
                trace.lock(entry, reason)
                trace.lock(source, reason)
            trace.put(op.out, Labels(place, vector))
            return
    trace.lock(source, reason)
    trace.lock(entry, reason)
    if not isinstance(entry, Labels):
        trace.put(op.out, trace.fixed(reason))
    elif op.out is not target:
        trace.put(op.out, entry)


@rule("cat", "stack", "concat", "concatenate", "_cat")
def concatenation(trace: Trace, op: Op) -> None:
    """Tensors end to end; along the channel axis their labels are, too."""
    tensors: list[Tensor] = [t for t in op.args[0] if not (t.ndim == 1 and t.numel() == 0)]
    stacked = op.name == "stack"
    ndim = op.out.ndim
    axis = int(op.arg(1, "dim", 0)) % ndim
    entries = [trace.get(tensor) for tensor in tensors]
    axes = set()
    for entry in entries:
        if isinstance(entry, Labels) and entry.axis is not None:
            axes.add(entry.axis + (1 if stacked and entry.axis >= axis else 0))
    if not any(isinstance(entry, Labels) for entry in entries):
        if len(entries) and all(entry is None for entry in entries):
            trace.put(op.out, None)
        else:
            trace.put(op.out, _cat_bare(trace, op, tensors, entries))
        return
    if len(axes) > 1:
        mix(trace, op, f"channels lie along different axes ({op.name})", entries)
        return
    if not axes or axes == {axis}:
        vectors = []
        for tensor, entry in zip(tensors, entries, strict=True):
            size = 1 if stacked else tensor.shape[axis]
            if isinstance(entry, Labels):
                vectors.append(entry.vector if entry.axis is not None else np.repeat(entry.vector, size))
            else:
                code = trace.book.reason(f"channels of a fixed tensor join it ({op.name})")
                vectors.append(np.full(size, code, dtype=np.int64))
        vector = np.concatenate(vectors)
        trace.book.mark(vector, "concatenated")
        trace.put(op.out, Labels(axis, vector))
        return
    (channels,) = axes
    result: IntArray | None = None
    for entry in entries:
        if isinstance(entry, Labels) and entry.axis is not None:
            if result is not None:
                trace.book.unite(result, entry.vector)
            result = entry.vector if result is None else np.where(result > 0, result, entry.vector)
    assert result is not None
    for tensor, entry in zip(tensors, entries, strict=True):
        place = channels - (1 if stacked and channels > axis else 0)
        if isinstance(entry, Labels) and entry.axis is None:
            trace.book.unite(result, np.repeat(entry.vector, len(result)))
        elif isinstance(entry, Fixed) and tensor.shape[place] > 1:
            trace.book.lock(result, entry.reason)
        elif isinstance(entry, Bare):
            attach(trace, entry, place, result, "scale", op.name)
    trace.put(op.out, Labels(channels, result))


def _cat_bare(trace: Trace, op: Op, tensors: Sequence[Tensor], entries: Sequence[Entry]) -> Entry:
    if len(entries) == 1:
        return entries[0]
    return trace.fixed(f"it joins a concatenation of fixed tensors ({op.name})")


@rule("constant_pad_nd")
def constant_pad(trace: Trace, op: Op) -> None:
    """Padding; what is padded on the channel axis must stay."""
    tensor, pads = op.args[0], list(op.args[1])
    entry = trace.get(tensor)
    if isinstance(entry, Bare):
        entry = trace.fixed(f"it joins a padded parameter ({op.name})")
    if isinstance(entry, Labels):
        axis = entry.axis
        for i in range(len(pads) // 2):
            at = tensor.ndim - 1 - i
            before, after = pads[2 * i], pads[2 * i + 1]
            if (before or after) and axis is None:
                trace.lock(entry, f"a single channel is padded ({op.name})")
                entry = trace.fixed(f"a single channel is padded ({op.name})")
                break
            if (before or after) and at == axis:
                if before < 0 or after < 0:
                    trace.lock(entry, f"channels are cropped at fixed places ({op.name})")
                code = trace.book.reason(f"padded channels join it ({op.name})")
                vector = np.pad(cast(Labels, entry).vector, (max(before, 0), max(after, 0)), constant_values=code)
                vector = vector[max(-before, 0) : len(vector) - max(-after, 0)]
                entry = Labels(axis, vector)
    trace.put(op.out, entry)


@rule("pixel_shuffle")
def pixel_shuffle(trace: Trace, op: Op) -> None:
    """(C r^2, H, W) -> (C, H r, W r): the r^2 channels of a block go together."""
    tensor, factor = op.args[0], int(op.args[1])
    entry = trace.get(tensor)
    if isinstance(entry, Labels) and entry.axis == tensor.ndim - 3:
        table = entry.vector.reshape(-1, factor * factor)
        for column in range(1, table.shape[1]):
            trace.book.unite(table[:, 0], table[:, column])
        trace.put(op.out, Labels(entry.axis, table[:, 0].copy()))
    else:
        trailing(trace, op, 3)


@rule("pixel_unshuffle")
def pixel_unshuffle(trace: Trace, op: Op) -> None:
    """(C, H r, W r) -> (C r^2, H, W)."""
    tensor, factor = op.args[0], int(op.args[1])
    entry = trace.get(tensor)
    if isinstance(entry, Labels) and entry.axis == tensor.ndim - 3:
        trace.put(op.out, Labels(entry.axis, np.repeat(entry.vector, factor * factor)))
    else:
        trailing(trace, op, 3)


@rule("im2col")
def im2col(trace: Trace, op: Op) -> None:
    """(N, C, H, W) -> (N, C k^2, L)."""
    tensor = op.args[0]
    entry = trace.get(tensor)
    if isinstance(entry, Labels) and entry.axis == tensor.ndim - 3:
        trace.put(op.out, Labels(entry.axis, np.repeat(entry.vector, math.prod(op.args[1]))))
    else:
        trailing(trace, op, 3)


@rule("col2im")
def col2im(trace: Trace, op: Op) -> None:
    """(N, C k^2, L) -> (N, C, H, W): the k^2 rows of a channel go together."""
    tensor = op.args[0]
    entry = trace.get(tensor)
    if isinstance(entry, Labels) and entry.axis == tensor.ndim - 2:
        table = entry.vector.reshape(-1, math.prod(op.args[2]))
        for column in range(1, table.shape[1]):
            trace.book.unite(table[:, 0], table[:, column])
        trace.put(op.out, Labels(entry.axis, table[:, 0].copy()))
    else:
        trailing(trace, op, 2)


@rule("roll")
def roll(trace: Trace, op: Op) -> None:
    """Cyclic shifts of other axes than the channels'."""
    tensor = op.args[0]
    entry = trace.get(tensor)
    dims = [int(d) % tensor.ndim for d in op.arg(2, "dims", ())]
    if isinstance(entry, Labels) and entry.axis is not None and (entry.axis in dims or not dims):
        mix(trace, op, "channels are shifted by a fixed number (roll)", [entry])
    else:
        trace.put(op.out, entry if not isinstance(entry, Bare) else trace.fixed("it joins a rolled parameter (roll)"))


# --- reductions, pooling, normalisation ------------------------------------------------------------------------------

_REDUCTIONS: dict[str, int] = {
    "mean": 1, "sum": 1, "amax": 1, "amin": 1, "max": 1, "min": 1, "std": 1, "var": 1, "var_mean": 1, "std_mean": 1,
    "linalg_vector_norm": 2, "norm": 2, "prod": 1, "argmax": 1, "argmin": 1, "any": 1, "all": 1, "logsumexp": 1,
    "median": 1, "nansum": 1, "count_nonzero": 1, "aminmax": 1,
}  # fmt: skip


@rule(*_REDUCTIONS)
def reduction(trace: Trace, op: Op) -> None:
    """Sums, means, maxima: over other axes channels stay apart; over channels the result depends on all of them."""
    tensor = op.inputs[0]
    if len(op.inputs) > 1:
        elementwise(trace, op)  # max(a, b)
        return
    entry = trace.get(tensor)
    dims = op.arg(_REDUCTIONS[op.name], "dim")
    if isinstance(dims, int):
        dims = [dims]
    if op.name == "aminmax":
        dims = None if op.kwargs.get("dim") is None else [op.kwargs["dim"]]
    axes = {int(d) % max(tensor.ndim, 1) for d in dims} if dims else set(range(tensor.ndim))
    if not isinstance(entry, Labels) or entry.axis in axes or entry.axis is None:
        if isinstance(entry, Labels):
            mix(trace, op, f"a reduction over its channels depends on all of them ({op.name})", [entry])
        else:
            mix(trace, op, f"it joins a reduced parameter or constant ({op.name})", [entry])
        return
    for out in op.outputs:
        axis = entry.axis if out.ndim == tensor.ndim else entry.axis - sum(a < entry.axis for a in axes)
        trace.put(out, Labels(axis, entry.vector))


@rule("_softmax", "_log_softmax", "softmax", "log_softmax", "cumsum", "cumprod", "logcumsumexp", "_safe_softmax")
def along_axis(trace: Trace, op: Op) -> None:
    """Softmax and cumulative sums: over other axes channels stay apart."""
    tensor = op.args[0]
    entry = trace.get(tensor)
    axis = int(op.arg(1, "dim")) % max(tensor.ndim, 1)
    if isinstance(entry, Labels) and entry.axis in (axis, None):
        mix(trace, op, f"it mixes all channels ({op.name})", [entry])
    elif isinstance(entry, Bare):
        mix(trace, op, f"it joins a function of a parameter ({op.name})", [entry])
    else:
        trace.put(op.out, entry)


@rule("sort", "topk", "kthvalue")
def ordering(trace: Trace, op: Op) -> None:
    """Sorting over other axes keeps channels apart."""
    tensor = op.args[0]
    entry = trace.get(tensor)
    default = 1 if op.name != "topk" else 2
    axis = int(op.kwargs.get("dim", op.arg(default if op.name == "sort" else 2, "dim", -1))) % max(tensor.ndim, 1)
    if isinstance(entry, Labels) and entry.axis is not None and entry.axis != axis and op.name == "topk":
        for out in op.outputs:
            trace.put(out, entry)
    else:
        mix(trace, op, f"it orders the channels by their values ({op.name})", [entry])


_SPATIAL = {
    "max_pool1d": 1, "max_pool1d_with_indices": 1, "avg_pool1d": 1, "adaptive_avg_pool1d": 1, "adaptive_max_pool1d": 1,
    "max_pool2d": 2, "max_pool2d_with_indices": 2, "avg_pool2d": 2, "_adaptive_avg_pool2d": 2,
    "adaptive_avg_pool2d": 2, "adaptive_max_pool2d": 2, "max_pool3d": 3, "max_pool3d_with_indices": 3,
    "avg_pool3d": 3, "_adaptive_avg_pool3d": 3, "adaptive_avg_pool3d": 3, "adaptive_max_pool3d": 3,
    "fractional_max_pool2d": 2, "reflection_pad1d": 1, "reflection_pad2d": 2, "reflection_pad3d": 3,
    "replication_pad1d": 1, "replication_pad2d": 2, "replication_pad3d": 3, "upsample_nearest1d": 1,
    "_upsample_nearest_exact1d": 1, "upsample_linear1d": 1, "upsample_nearest2d": 2, "_upsample_nearest_exact2d": 2,
    "upsample_bilinear2d": 2, "_upsample_bilinear2d_aa": 2, "upsample_bicubic2d": 2, "_upsample_bicubic2d_aa": 2,
    "upsample_nearest3d": 3, "_upsample_nearest_exact3d": 3, "upsample_trilinear3d": 3,
    "quantized_max_pool2d": 2, "mkldnn_max_pool2d": 2,
}  # fmt: skip


@rule(*_SPATIAL)
def spatial(trace: Trace, op: Op) -> None:
    """Pooling, resizing and padding of the trailing axes."""
    trailing(trace, op, _SPATIAL[op.name])


def trailing(trace: Trace, op: Op, count: int) -> None:
    """An operator that mixes the last `count` axes and treats the others alike."""
    tensor = op.inputs[0]
    entry = trace.get(tensor)
    for other in op.inputs[1:]:
        trace.lock(trace.get(other), f"it steers another tensor ({op.name})")
    if isinstance(entry, Labels) and entry.axis is not None and entry.axis < tensor.ndim - count:
        for out in op.outputs:
            trace.put(out, entry)
    else:
        mix(trace, op, f"its channels lie along an axis that {op.name} mixes", [entry])


@rule("native_batch_norm", "_native_batch_norm_legit", "_native_batch_norm_legit_no_training", "cudnn_batch_norm",
      "_batch_norm_with_update", "_batch_norm_no_update", "_batch_norm_impl_index", "miopen_batch_norm",
      "batch_norm")  # fmt: skip
def batch_norm(trace: Trace, op: Op) -> None:
    """Per-channel normalisation on axis 1."""
    _normalise(trace, op, axis=1)


def _normalise(trace: Trace, op: Op, axis: int) -> None:
    tensor = op.args[0]
    entry = trace.get(tensor)
    if isinstance(entry, Labels) and entry.axis != axis:
        mix(trace, op, f"it normalises along another axis than its channels' ({op.name})", [entry])
        return
    for other in op.inputs[1:]:
        bare = trace.get(other)
        if isinstance(bare, Bare):
            if isinstance(entry, Labels):
                attach(trace, bare, 0, entry.vector, "norm", op.name)
        elif isinstance(entry, Labels):
            if isinstance(bare, Labels) and other.shape == (len(entry.vector),):
                trace.book.unite(bare.vector, entry.vector)
            elif isinstance(bare, Fixed):
                trace.lock(entry, f"its normalisation uses a tensor that is neither parameter nor buffer ({op.name})")
    trace.put(op.outputs[0], entry)
    for out in op.outputs[1:]:
        trace.put(out, None)


@rule("native_group_norm", "group_norm")
def group_norm(trace: Trace, op: Op) -> None:
    """Group normalisation mixes the channels of a group, in groups of a fixed number."""
    tensor = op.args[0]
    trace.lock(trace.get(tensor), f"group normalisation mixes the statistics of its channels ({op.name})")
    _normalise(trace, op, axis=1)


@rule("native_layer_norm", "layer_norm", "_fused_rms_norm", "rms_norm")
def layer_norm(trace: Trace, op: Op) -> None:
    """Layer normalisation mixes everything along the normalised axes."""
    tensor = op.args[0]
    entry = trace.get(tensor)
    count = len(op.args[1])
    if isinstance(entry, Labels) and (entry.axis is None or entry.axis >= tensor.ndim - count):
        trace.lock(entry, f"layer normalisation mixes the statistics of its channels ({op.name})")
        if count == 1 and entry.axis is not None:
            for other in op.inputs[1:]:
                bare = trace.get(other)
                if isinstance(bare, Bare):
                    attach(trace, bare, 0, entry.vector, "norm", op.name)
    trace.put(op.outputs[0], entry)
    for out in op.outputs[1:]:
        trace.put(out, None)


@rule("glu")
def glu(trace: Trace, op: Op) -> None:
    """Gated linear unit: the halves of an axis go together."""
    tensor = op.args[0]
    axis = int(op.arg(1, "dim", -1)) % tensor.ndim
    entry = trace.get(tensor)
    if isinstance(entry, Labels) and entry.axis == axis:
        half = len(entry.vector) // 2
        trace.book.unite(entry.vector[:half], entry.vector[half:])
        trace.put(op.out, Labels(axis, entry.vector[:half]))
    else:
        trace.put(op.out, entry if not isinstance(entry, Bare) else trace.fixed("it joins a gated parameter (glu)"))


# --- constants -------------------------------------------------------------------------------------------------------


@rule("zeros_like", "ones_like", "full_like", "empty_like", "rand_like", "randn_like", "bernoulli")
def like(trace: Trace, op: Op) -> None:
    """A tensor that always has the shape of another one."""
    entry = trace.get(op.inputs[0])
    trace.put(op.out, entry if not isinstance(entry, Bare) else None)


@rule("zeros", "ones", "full", "empty", "arange", "linspace", "new_zeros", "new_ones", "new_full", "new_empty", "rand",
      "randn", "eye", "scalar_tensor", "randint", "randperm", "new_empty_strided", "empty_strided", "tril_indices",
      "meshgrid")  # fmt: skip
def factory(trace: Trace, op: Op) -> None:
    """A new tensor whose size the code chose, perhaps from that of another."""
    for out in op.outputs:
        trace.put(out, None)


@rule("zero", "fill", "uniform", "normal", "bernoulli_")
def overwritten(trace: Trace, op: Op) -> None:
    """In-place constants keep what the tensor is."""
    for out in op.outputs:
        trace.put(out, trace.get(op.inputs[0]))


@rule("embedding")
def embedding(trace: Trace, op: Op) -> None:
    """A table look-up: the result's last axis is the table's second dimension."""
    entry = trace.get(op.args[0])
    if isinstance(entry, Bare) and all(len(part.where) == 2 for part in entry.parts):
        last = op.out.ndim - 1
        parts = []
        for part in entry.parts:
            width = part.where[1]
            parts.append(Part(part.name, (None, Labels(last, width.vector) if isinstance(width, Labels) else width)))
        trace.put(op.out, Bare(tuple(parts)))
    else:
        unknown(trace, op)


# --- layers ----------------------------------------------------------------------------------------------------------


def _whole(part: Part, dim: int, axis: int, size: int) -> bool:
    """True when one parameter dimension lies, whole and in some order, along one axis of a weight operand."""
    where = part.where[dim]
    if size == 1:
        return where is None
    return isinstance(where, Labels) and where.axis == axis and np.array_equal(np.sort(where.vector), np.arange(size))


def _positions(part: Part, dim: int, size: int) -> IntArray:
    where = part.where[dim]
    return where.vector if isinstance(where, Labels) else np.zeros(size, dtype=np.int64)


@rule("convolution", "_convolution", "mkldnn_convolution", "cudnn_convolution", "conv_tbc", "convolution_overrideable")
def convolution(trace: Trace, op: Op) -> None:
    """Convolutions of any number of dimensions, grouped, depthwise and transposed."""
    if op.name not in ("convolution", "_convolution"):
        unknown(trace, op)
        return
    x, weight, bias = op.args[0], op.args[1], op.arg(2, "bias")
    stride, transposed, groups = op.args[3], bool(op.args[6]), int(op.args[8])
    channels = x.ndim - (weight.ndim - 2) - 1
    batch = x.shape[0] if channels == 1 else 1
    in_extent, out_extent = batch * math.prod(x.shape[channels + 1 :]), batch * math.prod(op.out.shape[channels + 1 :])
    extent = in_extent if transposed else out_extent
    macs = extent * weight.numel()
    entry, bare = trace.get(x), trace.get(weight)
    whole = isinstance(bare, Bare) and all(
        len(part.where) == weight.ndim and all(_whole(part, d, d, weight.shape[d]) for d in (0, 1))
        for part in bare.parts
    )
    if not isinstance(bare, Bare) or not whole or any(isinstance(trace.get(t), Labels) for t in (weight,)):
        if trace.counting:
            trace.fixed_macs += macs
        mix(trace, op, f"its weight is computed from other tensors ({op.name})", [entry, bare])
        trace.put(op.out, trace.fixed(f"its weight is computed from other tensors ({op.name})"))
        return
    name = bare.parts[0].name
    call = trace.call(name, "conv_transpose" if transposed else "conv", macs, in_extent, out_extent)
    call.groups, call.kernel, call.stride = groups, tuple(weight.shape[2:]), tuple(stride)
    rows = trace.site(name, 0, "in" if transposed else "out")[_positions(bare.parts[0], 0, weight.shape[0])]
    columns = trace.site(name, 1, "out" if transposed else "in")[_positions(bare.parts[0], 1, weight.shape[1])]
    for part in bare.parts[1:]:
        for dim, vector in ((0, rows), (1, columns)):
            own = trace.site(part.name, dim, trace.roles[name, dim])
            trace.book.unite(own[_positions(part, dim, weight.shape[dim])], vector)
    if isinstance(entry, Labels) and entry.axis != channels:
        reason = f"its channels lie along an axis that {op.name} slides over"
        mix(trace, op, reason, [entry])
        trace.book.lock(rows, trace.book.reason(reason))
        trace.book.lock(columns, trace.book.reason(reason))
        return
    inputs = entry.vector if isinstance(entry, Labels) else None
    outputs = _couple_conv(trace, rows, columns, inputs, groups, transposed)
    if len(outputs) == 1:
        trace.book.lock(outputs, trace.book.reason("it is a layer's only channel"))
    if isinstance(bias, Tensor):
        call.bias = _bias(trace, bias, outputs, op.name)
    trace.put(op.out, Labels(channels, outputs))


def _couple_conv(
    trace: Trace, rows: IntArray, columns: IntArray, inputs: IntArray | None, groups: int, transposed: bool
) -> IntArray:
    """Unite input labels with the weight's, inside groups where there are some; return the output labels."""
    fixed = None if inputs is not None else trace.book.reason("it reads the model's input or a fixed tensor")
    book = trace.book
    if groups == 1:
        if inputs is not None:
            book.unite(inputs, rows if transposed else columns)
        return columns if transposed else rows
    per_row, per_column = len(rows) // groups, len(columns)
    if transposed:
        # weight (in, out / groups): row g * per_row + p reads input of that number, column q makes output q of each
        # group
        outputs_table = np.broadcast_to(columns, (groups, per_column))
        in_per, out_per = per_row, per_column
    else:
        in_per, out_per = per_column, per_row
    if in_per == 1 or out_per == 1:  # a channel takes its whole group along
        book.mark(rows, "depthwise")
        table = rows.reshape(groups, per_row)
        for p in range(1, per_row):
            book.unite(table[:, 0], table[:, p])
        if per_column > 1:  # positions inside a group are bound to the group
            book.lock(columns, book.reason("it lies inside a group that goes as a whole"))
        keys = table[:, 0]
        wide = inputs.reshape(groups, in_per) if inputs is not None else None
        if wide is not None:
            for p in range(in_per):
                book.unite(wide[:, p], keys)
        elif fixed is not None:
            book.lock(keys, fixed)
        outputs = np.repeat(keys, out_per) if transposed else rows
        return outputs
    book.mark(rows, "grouped")
    table = rows.reshape(groups, per_row)
    for g in range(1, groups):
        book.unite(table[0], table[g])
    if transposed:
        if inputs is not None:
            book.unite(inputs, rows)
        book.mark(columns, "grouped")
        return outputs_table.ravel().copy()
    if inputs is not None:
        wide = inputs.reshape(groups, in_per)
        for g in range(groups):
            book.unite(wide[g], columns)
        book.mark(inputs, "grouped")
    return rows


def _bias(trace: Trace, bias: Tensor, outputs: IntArray, name: str) -> str | None:
    entry = trace.get(bias)
    if isinstance(entry, Bare):
        attach(trace, entry, bias.ndim - 1, outputs, "out", name)
        return entry.parts[0].name
    if isinstance(entry, Labels) and entry.axis == bias.ndim - 1:
        trace.book.unite(entry.vector, outputs)
    elif entry is not None and bias.shape[-1] > 1:
        trace.book.lock(outputs, trace.book.reason(f"its bias is neither parameter nor buffer ({name})"))
    return None


@rule("mm", "bmm", "addmm", "baddbmm", "linear", "matmul", "mv", "addmv")
def product(trace: Trace, op: Op) -> None:
    """Matrix products: with a parameter it is a linear layer, between activations it locks both."""
    offset = 1 if op.name.startswith(("addm", "badd")) else 0
    left, right = op.args[offset], op.args[offset + 1]
    bias = op.args[0] if offset else None
    if op.name == "linear":
        bias = op.arg(2, "bias")
    reason = f"it is multiplied with other activations ({op.name})"
    left_entry, right_entry = trace.get(left), trace.get(right)
    done = False
    if op.name in ("mm", "addmm", "bmm", "baddbmm"):
        last = left.ndim - 1
        if isinstance(right_entry, Bare):
            done = _linear(trace, op, left, last, right, right_entry, last - 1, last, last, bias)
        elif isinstance(left_entry, Bare):
            done = _linear(trace, op, right, last - 1, left, left_entry, last, last - 1, last - 1, bias)
    elif op.name == "linear" and isinstance(right_entry, Bare):
        done = _linear(trace, op, left, left.ndim - 1, right, right_entry, 1, 0, op.out.ndim - 1, bias)
    if not done:
        entries = [trace.get(tensor) for tensor in op.inputs]
        if op.name in ("mm", "addmm") and trace.counting:
            trace.fixed_macs += left.shape[0] * left.shape[1] * right.shape[1]
        mix(trace, op, reason, entries)


def _linear(
    trace: Trace, op: Op, x: Tensor, x_axis: int, weight: Tensor, bare: Bare, w_in: int, w_out: int, out_axis: int,
    bias: Tensor | None,
) -> bool:  # fmt: skip
    part = bare.parts[0]
    shape = trace.tensors[part.name].shape
    wide = [d for d, where in enumerate(part.where) if where is not None]
    if any(part.where[d] == "lost" for d in wide) or len(shape) < 2:
        return False
    rows = [d for d in range(len(shape)) if _whole(part, d, w_out, shape[d]) and shape[d] == weight.shape[w_out]]
    columns = [d for d in range(len(shape)) if _whole(part, d, w_in, shape[d]) and shape[d] == weight.shape[w_in]]
    pairs = [(r, c) for r in rows for c in columns if r != c and set(wide) <= {r, c}]
    if not pairs or len(bare.parts) != 1:
        return False
    out_dim, in_dim = pairs[0]
    size = x.numel() // x.shape[x_axis]
    macs = size * weight.shape[w_in] * weight.shape[w_out]
    call = trace.call(part.name, "linear", macs, size, size)
    outputs = trace.site(part.name, out_dim, "out")[_positions(part, out_dim, weight.shape[w_out])]
    inputs = trace.site(part.name, in_dim, "in")[_positions(part, in_dim, weight.shape[w_in])]
    entry = trace.get(x)
    if isinstance(entry, Labels) and entry.axis != x_axis:
        reason = f"its channels lie along an axis that {op.name} does not contract"
        for vector in (entry.vector, outputs, inputs):
            trace.book.lock(vector, trace.book.reason(reason))
        trace.put(op.out, trace.fixed(reason))
        return True
    if isinstance(entry, Labels):
        trace.book.unite(entry.vector, inputs)
    elif isinstance(entry, Bare):
        trace.lock(entry, f"it is multiplied with another parameter ({op.name})")
    if len(outputs) == 1:
        trace.book.lock(outputs, trace.book.reason("it is a layer's only channel"))
    if bias is not None:
        if bias.ndim == 1 and out_axis == op.out.ndim - 1:
            call.bias = _bias(trace, bias, outputs, op.name)
        else:
            trace.put(op.out, Labels(out_axis, outputs))
            joined = join(trace, [op.out, bias], op.out.shape, op.name)
            trace.put(op.out, joined)
            return True
    trace.put(op.out, Labels(out_axis, outputs))
    return True


@rule("_embedding_bag", "roi_align", "roi_pool", "_roi_align")
def regions(trace: Trace, op: Op) -> None:
    """Features cut out at boxes: channels stay, boxes are fixed."""
    if op.name == "_embedding_bag":
        unknown(trace, op)
        return
    entry = trace.get(op.args[0])
    trace.lock(trace.get(op.args[1]), f"it places boxes ({op.name})")
    if isinstance(entry, Labels) and entry.axis == 1:
        trace.put(op.outputs[0], entry)
        for out in op.outputs[1:]:
            trace.put(out, None)
    else:
        mix(trace, op, f"its channels lie along an axis that {op.name} mixes", [entry])
