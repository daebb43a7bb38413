"""What convolutions and matrix products share: weights that are whole parameters, and weights that are computed."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from rlprune.channels.computed import Locked, owner
from rlprune.channels.labels import Bare, Entry, Labels, Part
from rlprune.channels.rules.base import Op, mix
from rlprune.channels.rules.pointwise import along, attach, join
from rlprune.channels.trace import Call, Trace
from rlprune.channels.units import IntArray


def whole(part: Part, dim: int, axis: int, size: int) -> bool:
    """True when one parameter dimension lies, whole and in some order, along one axis of a weight operand."""
    where = part.where[dim]
    if size == 1:
        return where is None
    return isinstance(where, Labels) and where.axis == axis and np.array_equal(np.sort(where.vector), np.arange(size))


def positions(part: Part, dim: int) -> IntArray:
    """Positions along a parameter's dimension, in the order of the operand's axis."""
    where = part.where[dim]
    return where.vector if isinstance(where, Labels) else np.zeros(1, dtype=np.int64)


def spoilt(trace: Trace, part: Part, weight: Tensor) -> bool:
    """True when a weight is a function of a parameter whose channels have been mixed on the way (spectral norm)."""
    return part.name in trace.locked_tensors and (
        trace.tensors[part.name].untyped_storage()._cdata != weight.untyped_storage()._cdata
    )


def computed_layer(trace: Trace, op: Op, weight: Tensor, channels: int, kind: str, macs: int) -> Call | None:
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


def lock_all(trace: Trace, op: Op, reason: str, entry: Entry, *vectors: IntArray) -> None:
    """Lock what a layer reads, its weight's channels and what it makes."""
    trace.lock(entry, reason)
    for vector in vectors:
        trace.book.lock(vector, trace.book.reason(reason))
    trace.put(op.out, trace.fixed(reason))


def produce(trace: Trace, op: Op, weight: str, entry: Labels, bias: Tensor | None) -> None:
    """The labels of a layer's output, and its bias's."""
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
