"""Rules of convolutions and matrix products: where labels are made, and where they are consumed."""

from __future__ import annotations

import math

import numpy as np
from torch import Tensor, nn

from rlprune.channels.computed import Locked, owner
from rlprune.channels.labels import Bare, Entry, Labels, Part
from rlprune.channels.rules.base import Op, mix, rule
from rlprune.channels.rules.pointwise import along, attach, join
from rlprune.channels.trace import Call, Trace
from rlprune.channels.units import IntArray


def _whole(part: Part, dim: int, axis: int, size: int) -> bool:
    """True when one parameter dimension lies, whole and in some order, along one axis of a weight operand."""
    where = part.where[dim]
    if size == 1:
        return where is None
    return isinstance(where, Labels) and where.axis == axis and np.array_equal(np.sort(where.vector), np.arange(size))


def _positions(part: Part, dim: int) -> IntArray:
    where = part.where[dim]
    return where.vector if isinstance(where, Labels) else np.zeros(1, dtype=np.int64)


def _weight(trace: Trace, tensor: Tensor) -> list[Part]:
    """The parameters a convolution weight is an element-wise function of (a pruning mask beside the weight, say)."""
    entry = trace.get(tensor)
    if not isinstance(entry, Bare):
        return []
    parts = sorted(entry.parts, key=lambda part: not isinstance(trace.tensors[part.name], nn.Parameter))
    main = parts[0]
    same = len(main.where) == tensor.ndim and all(_whole(main, d, d, tensor.shape[d]) for d in (0, 1))
    return parts if same and tensor.ndim >= 3 and not _spoilt(trace, main, tensor) else []


def _spoilt(trace: Trace, part: Part, weight: Tensor) -> bool:
    """True when a weight is a function of a parameter whose channels have been mixed on the way (spectral norm)."""
    return part.name in trace.locked_tensors and (
        trace.tensors[part.name].untyped_storage()._cdata != weight.untyped_storage()._cdata
    )


def _computed(trace: Trace, op: Op, weight: Tensor, channels: int, kind: str, macs: int) -> Call | None:
    """Enter a layer whose weight is computed from parameters and lock what it touches; its MACs never change.

    Returns its record if one parameter has the weight's shape.
    """
    names = trace.sources(weight)
    if not names:
        trace.count_fixed(macs)
        mix(trace, op, f"the weight it meets is neither a parameter nor computed from parameters alone ({op.name})")
        return None
    shapes = (weight.shape, weight.shape[::-1]) if kind == "linear" else (weight.shape,)
    alike = [name for name in names if trace.tensors[name].shape in shapes]
    main = alike[0] if alike else max(names, key=lambda name: trace.tensors[name].numel())
    layer, maker = trace.makers.get(main, (owner(main), f"from {', '.join(names[:3])}{', ...' * (len(names) > 3)}"))
    words = f"weight is computed {maker} ({op.name})"
    trace.computed.setdefault(
        layer, Locked(channels, f"its {words}", len(trace.calls) + len(trace.computed), main if alike else None)
    )
    mix(trace, op, f"it meets layer {layer}, whose {words}")
    if not alike:
        trace.count_fixed(macs)
        return None
    positions = macs // weight.numel()
    return trace.call(main, kind, macs, positions, positions)


@rule("convolution", "_convolution")
def convolution(trace: Trace, op: Op) -> None:
    """Convolutions of any number of dimensions, grouped, depthwise and transposed."""
    x, weight, bias = op.args[:3]
    transposed, groups = bool(op.args[6]), int(op.args[8])
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
        call = _computed(trace, op, weight, weight.shape[1] * groups if transposed else weight.shape[0], kind, macs)
    if call is not None:
        call.groups, call.kernel, call.stride = groups, tuple(weight.shape[2:]), tuple(op.args[3])
    if not parts or call is None:
        return
    by_group = groups > 1 and (weight.shape[1] == 1 or weight.shape[0] == groups)

    def side(dim: int, role: str) -> IntArray:
        labels = trace.site(parts[0].name, dim, role)[_positions(parts[0], dim)]
        for part in parts[1:]:
            attach(trace, Bare((part,)), dim, labels, role, op.name)
        return labels

    rows = side(0, "in" if transposed and not by_group else "out")
    columns = np.zeros(0, dtype=np.int64) if by_group else side(1, "out" if transposed else "in")
    entry = trace.get(x)
    if isinstance(entry, Labels) and entry.axis not in (channels, None):
        _lock_all(trace, op, f"its channels lie along an axis that {op.name} slides over", entry, rows, columns)
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
    _produce(trace, op, call.weight, Labels(channels, outputs), bias)


def _lock_all(trace: Trace, op: Op, reason: str, entry: Entry, *vectors: IntArray) -> None:
    trace.lock(entry, reason)
    for vector in vectors:
        trace.book.lock(vector, trace.book.reason(reason))
    trace.put(op.out, trace.fixed(reason))


def _produce(trace: Trace, op: Op, weight: str, entry: Labels, bias: Tensor | None) -> None:
    if len(entry.vector) == 1:
        trace.book.lock(entry.vector, trace.book.reason("it is a layer's only channel"))
    trace.put(op.out, entry)
    if bias is None:
        return
    own = trace.get(bias)
    if isinstance(own, Bare) and bias.ndim == 1:
        attach(trace, own, 0, entry.vector, "out", op.name)
        trace.calls[weight].bias = own.parts[0].name
    elif bias.ndim == 1 and isinstance(own, Labels):
        trace.book.unite(along(own, len(entry.vector)), entry.vector)
    elif bias.ndim == 1 and own is not None and len(bias) > 1:
        trace.book.lock(entry.vector, trace.book.reason(f"its bias is neither parameter nor buffer ({op.name})"))
    elif bias.ndim > 1:
        trace.put(op.out, join(trace, [op.out, bias], op.out.shape, "add"))


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


@rule("mm", "bmm", "addmm", "baddbmm", "linear")
def product(trace: Trace, op: Op) -> None:
    """Matrix products: with a parameter it is a linear layer, between activations it locks both."""
    biased = op.name in ("addmm", "baddbmm")
    left, right = op.args[1:3] if biased else op.args[:2]
    bias = op.args[0] if biased else None
    last = left.ndim - 1
    if op.name == "linear":
        done = _linear(trace, op, left, last, right, 1, 0, last, op.arg(2, "bias"))
    else:
        done = _linear(trace, op, left, last, right, last - 1, last, last, bias) or _linear(
            trace, op, right, last - 1, left, last, last - 1, last - 1, bias
        )
    if done:
        return
    out = op.outputs[0]
    counted = left.ndim == 2 or any(t.untyped_storage()._cdata in trace.parameter_storages for t in (left, right))
    macs = math.prod(left.shape) * out.shape[-1] if counted else 0
    made, other = (left, right) if trace.sources(left) and op.name != "linear" else (right, left)
    if trace.sources(made) and trace.is_active(other):
        _computed(trace, op, made, out.shape[-1] if made is right else out.shape[-2], "linear", macs)
    else:
        trace.count_fixed(macs)
        mix(trace, op, f"it is multiplied with other activations or a computed weight ({op.name})")


def _linear(
    trace: Trace, op: Op, x: Tensor, x_axis: int, weight: Tensor, w_in: int, w_out: int, out_axis: int,
    bias: Tensor | None,
) -> bool:  # fmt: skip
    """Treat one operand as the weight of a linear layer; False if it is not a whole parameter."""
    bare = trace.get(weight)
    if not isinstance(bare, Bare) or len(bare.parts) != 1:
        return False
    part = bare.parts[0]
    if _spoilt(trace, part, weight):
        return False
    shape = trace.tensors[part.name].shape
    wide = {d for d, where in enumerate(part.where) if where is not None}
    rows = [d for d in range(len(shape)) if shape[d] == weight.shape[w_out] and _whole(part, d, w_out, shape[d])]
    columns = [d for d in range(len(shape)) if shape[d] == weight.shape[w_in] and _whole(part, d, w_in, shape[d])]
    pairs = [(r, c) for r in rows for c in columns if r != c and wide <= {r, c}]
    if not pairs:
        return False
    size = x.numel() // max(x.shape[x_axis], 1)
    trace.call(part.name, "linear", size * weight.shape[w_in] * weight.shape[w_out], size, size)
    outputs = trace.site(part.name, pairs[0][0], "out")[_positions(part, pairs[0][0])]
    inputs = trace.site(part.name, pairs[0][1], "in")[_positions(part, pairs[0][1])]
    entry = trace.get(x)
    if isinstance(entry, Labels) and entry.axis not in (x_axis, None):
        _lock_all(trace, op, f"its channels lie along an axis that {op.name} does not sum over", entry, outputs, inputs)
        return True
    if isinstance(entry, Labels):
        trace.book.unite(along(entry, len(inputs)), inputs)
    elif isinstance(entry, Bare):
        trace.lock(entry, f"it is multiplied with another parameter ({op.name})")
    _produce(trace, op, part.name, Labels(out_axis, outputs), bias)
    return True
