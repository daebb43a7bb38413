"""Rules of convolutions: where labels are made, and where they are consumed."""

from __future__ import annotations

import math

import numpy as np
from torch import Tensor, nn

from rlprune.channels.labels import Bare, Labels, Lost, Part
from rlprune.channels.rules.base import Op, rule
from rlprune.channels.rules.pointwise import along, attach
from rlprune.channels.rules.weights import computed_layer, lock_all, positions, produce, spoilt, whole
from rlprune.channels.trace import Call, Trace
from rlprune.channels.units import IntArray


def _weight(trace: Trace, tensor: Tensor) -> list[Part]:
    """The parameters a convolution weight is an element-wise function of (a pruning mask beside the weight, say)."""
    entry = trace.get(tensor)
    if not isinstance(entry, Bare):
        return []
    parts = sorted(entry.parts, key=lambda part: not isinstance(trace.tensors[part.name], nn.Parameter))
    main = parts[0]
    same = len(main.where) == tensor.ndim and all(whole(main, d, d, tensor.shape[d]) for d in (0, 1))
    return parts if same and tensor.ndim >= 3 and not spoilt(trace, main, tensor) else []


@rule("convolution", "_convolution")
def convolution(trace: Trace, op: Op) -> None:
    """Convolutions of any number of dimensions, grouped, depthwise and transposed."""
    x, weight, bias = op.args[:3]
    transposed, groups = bool(op.args[6]), int(op.args[8])
    if _constant_filter(trace, op, x, weight, bias, transposed, groups) or _folded(trace, op, x, weight):
        return
    _convolve(trace, op, x, weight, bias, transposed, groups, tuple(op.args[3]))


@rule("deform_conv2d")
def deformable_convolution(trace: Trace, op: Op) -> None:
    """A convolution at places that other activations say."""
    x, weight, offset, mask, bias = op.args[:5]
    for steering in (offset, mask):
        trace.lock(trace.get(steering), f"its values steer another tensor ({op.name})")
    entry, parts = trace.get(x), int(op.args[12])
    if parts > 1 and isinstance(entry, Labels) and entry.axis == 1:
        table = entry.vector.reshape(parts, -1)
        for row in table[1:]:
            trace.book.unite(table[0], row)
    _convolve(trace, op, x, weight, bias, False, int(op.args[11]), tuple(op.args[5:7]))


def _constant_filter(
    trace: Trace, op: Op, x: Tensor, weight: Tensor, bias: Tensor | None, transposed: bool, groups: int
) -> bool:
    """One filter for all channels, expanded to as many as there are (a blur, an edge filter): they stay apart."""
    channels, entry, kernel = x.ndim - (weight.ndim - 2) - 1, trace.get(x), trace.get(weight)
    if not isinstance(entry, Labels) or entry.axis != channels or weight.shape[1] != 1 or groups != weight.shape[0]:
        return False
    if isinstance(kernel, Labels) or bias is not None or groups != x.shape[channels] or groups == 1:
        return False
    if isinstance(kernel, Bare):
        alike = not any(
            w.axis == 0 if isinstance(w, Labels) else isinstance(w, Lost) for p in kernel.parts for w in p.where
        )
    else:
        alike = kernel is None or weight.stride(0) == 0
    if not alike:
        return False
    places = math.prod((x if transposed else op.out).shape[channels + 1 :]) * (x.shape[0] if channels else 1)
    trace.count_filter(entry.vector, places * weight.numel())
    trace.put(op.out, entry)
    return True


def _folded(trace: Trace, op: Op, x: Tensor, weight: Tensor) -> bool:
    """Channels folded into the batch: each is filtered for itself, by a layer that stays as it is."""
    entry = trace.get(x)
    if not isinstance(entry, Labels) or entry.axis != 0 or x.ndim != weight.ndim:
        return False
    reason = f"it meets channels that are folded into the batch ({op.name})"
    for other in op.inputs[1:]:
        trace.lock(trace.get(other), reason)
    places = x if bool(op.args[6]) else op.out
    trace.count_filter(entry.vector, x.shape[0] * math.prod(places.shape[2:]) * weight.numel())
    trace.put(op.out, entry)
    return True


def _convolve(
    trace: Trace, op: Op, x: Tensor, weight: Tensor, bias: Tensor | None, transposed: bool, groups: int,
    stride: tuple[int, ...],
) -> None:  # fmt: skip
    channels = x.ndim - (weight.ndim - 2) - 1
    batch = x.shape[0] if channels == 1 else 1
    in_extent = batch * math.prod(x.shape[channels + 1 :])
    out_extent = batch * math.prod(op.out.shape[channels + 1 :])
    macs = (in_extent if transposed else out_extent) * weight.numel()
    parts = _weight(trace, weight)
    kind = "conv_transpose" if transposed else "conv"
    call: Call | None
    if parts:
        call = trace.call(parts[0].name, kind, macs, in_extent, out_extent)
    else:
        call = computed_layer(
            trace, op, weight, weight.shape[1] * groups if transposed else weight.shape[0], kind, macs
        )
    if call is not None:
        call.groups, call.kernel, call.stride = groups, tuple(weight.shape[2:]), stride
    if not parts or call is None:
        return
    by_group = groups > 1 and (weight.shape[1] == 1 or weight.shape[0] == groups)

    def side(dim: int, role: str) -> IntArray:
        labels = trace.site(parts[0].name, dim, role)[positions(parts[0], dim)]
        for part in parts[1:]:
            attach(trace, Bare((part,)), dim, labels, role, op.name)
        return labels

    rows = side(0, "in" if transposed and not by_group else "out")
    columns = np.zeros(0, dtype=np.int64) if by_group else side(1, "out" if transposed else "in")
    entry = trace.get(x)
    if isinstance(entry, Labels) and entry.axis not in (channels, None):
        lock_all(trace, op, f"its channels lie along an axis that {op.name} slides over", entry, rows, columns)
        return
    inputs = along(entry, x.shape[channels]) if isinstance(entry, Labels) else None
    if groups == 1:
        outputs = columns if transposed else rows
        if inputs is not None:
            trace.book.unite(inputs, rows if transposed else columns)
    elif by_group:
        outputs = _depthwise(trace, rows, inputs, groups, weight.shape[1] if transposed else None)
    else:
        outputs = _grouped(trace, rows, columns, inputs, groups, transposed)
    produce(trace, op, call.weight, Labels(channels, outputs), bias)


def _depthwise(trace: Trace, rows: IntArray, inputs: IntArray | None, groups: int, copies: int | None) -> IntArray:
    """Groups of one input or one output channel: a channel takes its whole group along.

    A transposed convolution makes `copies` output channels of each group.
    """
    book = trace.book
    table = rows.reshape(groups, -1)
    keys = table[:, 0]
    for p in range(1, table.shape[1]):
        book.unite(keys, table[:, p])
    if inputs is None:
        book.lock(keys, book.reason("it reads the model's input or a fixed tensor group by group (convolution)"))
    else:
        wide = inputs.reshape(groups, -1)
        for p in range(wide.shape[1]):
            book.unite(keys, wide[:, p])
    return rows if copies is None else np.repeat(keys, copies)


def _grouped(
    trace: Trace, rows: IntArray, columns: IntArray, inputs: IntArray | None, groups: int, transposed: bool
) -> IntArray:
    """Position p of every group goes together, on either side; the number of groups stays."""
    book = trace.book
    table = rows.reshape(groups, -1)
    for g in range(1, groups):
        book.unite(table[0], table[g])
    book.mark(rows, "grouped")
    book.mark(columns, "grouped")
    if transposed:
        if inputs is not None:
            book.unite(inputs, rows)
        return np.tile(columns, groups)
    if inputs is not None:
        for wide in inputs.reshape(groups, -1):
            book.unite(wide, columns)
    return rows
