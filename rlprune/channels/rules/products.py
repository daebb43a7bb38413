"""Rules of matrix products: linear layers, and products of activations such as attention."""

from __future__ import annotations

import math

from torch import Tensor

from rlprune.channels.labels import Bare, Labels
from rlprune.channels.rules.base import Op, mix, rule
from rlprune.channels.rules.pointwise import along, attach
from rlprune.channels.rules.weights import computed_layer, lock_all, positions, produce, spoilt, whole
from rlprune.channels.trace import Trace


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
    if op.name in ("bmm", "baddbmm") and bias is None and _product_of_activations(trace, op, left, right):
        return
    out = op.outputs[0]
    counted = left.ndim == 2 or any(t.untyped_storage()._cdata in trace.parameter_storages for t in (left, right))
    macs = math.prod(left.shape) * out.shape[-1] if counted else 0
    made, other = (left, right) if trace.sources(left) and op.name != "linear" else (right, left)
    if trace.sources(made) and trace.is_active(other):
        computed_layer(trace, op, made, out.shape[-1] if made is right else out.shape[-2], "linear", macs)
    else:
        trace.count_fixed(macs)
        mix(trace, op, f"it is multiplied with other activations or a computed weight ({op.name})")


def _product_of_activations(trace: Trace, op: Op, left: Tensor, right: Tensor) -> bool:
    """Batched products of activations: along the batch (attention heads) and outer axes channels stay apart.

    False if labels lie along the inner axis: what is summed there is often scaled by its length.
    """
    a, b = trace.get(left), trace.get(right)
    if trace.sources(left) or trace.sources(right) or not (isinstance(a, Labels) or isinstance(b, Labels)):
        return False
    axes = tuple(entry.axis if isinstance(entry, Labels) else -1 for entry in (a, b))
    if axes == (0, 0):
        assert isinstance(a, Labels) and isinstance(b, Labels)
        trace.book.unite(a.vector, b.vector)
        trace.put(op.out, a)
    elif axes == (1, -1) or axes == (-1, 2):
        trace.put(op.out, a if axes[0] == 1 else b)
    else:
        return False
    return True


@rule("_scaled_dot_product_flash_attention_for_cpu", "_scaled_dot_product_flash_attention",
      "_scaled_dot_product_efficient_attention", "_scaled_dot_product_cudnn_attention",
      "_scaled_dot_product_fused_attention_overrideable")  # fmt: skip
def attention(trace: Trace, op: Op) -> None:
    """Attention of queries, keys and values (batch, heads, positions, width): whole heads stay apart."""
    entries = [trace.get(tensor) for tensor in op.args[:3]]
    labelled = [entry for entry in entries if isinstance(entry, Labels)]
    if len(labelled) != 3 or any(entry.axis != 1 for entry in labelled):
        mix(trace, op, f"operator {op.name} multiplies it with other activations, by heads of a fixed size")
        return
    for entry in labelled[1:]:
        trace.book.unite(labelled[0].vector, entry.vector)
    for mask in op.inputs[3:]:
        own = trace.get(mask)
        if mask.ndim == 4 and mask.shape[1] > 1:
            if isinstance(own, Bare):
                attach(trace, own, 1, labelled[0].vector, "scale", op.name)
            elif isinstance(own, Labels) and own.axis == 1:
                trace.book.unite(labelled[0].vector, own.vector)
            elif own is not None:
                trace.book.lock(labelled[0].vector, trace.book.reason(f"a mask of a fixed size joins it ({op.name})"))
    trace.put(op.outputs[0], labelled[0])
    for out in op.outputs[1:]:
        trace.put(out, labelled[0] if out.ndim > 1 and out.shape[1] == len(labelled[0].vector) else None)


def _linear(
    trace: Trace, op: Op, x: Tensor, x_axis: int, weight: Tensor, w_in: int, w_out: int, out_axis: int,
    bias: Tensor | None,
) -> bool:  # fmt: skip
    """Treat one operand as the weight of a linear layer; False if it is not a whole parameter."""
    bare = trace.get(weight)
    if not isinstance(bare, Bare):
        return False
    part = bare.parts[0]
    if spoilt(trace, part, weight) or any(other.name != part.name for other in bare.parts):
        return False
    shape = trace.tensors[part.name].shape
    wide = {d for d, where in enumerate(part.where) if where is not None}
    rows = [d for d in range(len(shape)) if shape[d] == weight.shape[w_out] and whole(part, d, w_out, shape[d])]
    columns = [d for d in range(len(shape)) if shape[d] == weight.shape[w_in] and whole(part, d, w_in, shape[d])]
    pairs = [(r, c) for r in rows for c in columns if r != c and wide <= {r, c}]
    if not pairs:
        return False
    size = x.numel() // max(x.shape[x_axis], 1)
    trace.call(part.name, "linear", size * weight.shape[w_in] * weight.shape[w_out], size, size)
    outputs = trace.site(part.name, pairs[0][0], "out")[positions(part, pairs[0][0])]
    inputs = trace.site(part.name, pairs[0][1], "in")[positions(part, pairs[0][1])]
    for other in bare.parts[1:]:  # lengths of its rows, by which they are divided
        attach(trace, Bare((other,)), w_out, outputs, "out", op.name)
        attach(trace, Bare((other,)), w_in, inputs, "in", op.name)
    entry = trace.get(x)
    if isinstance(entry, Labels) and entry.axis not in (x_axis, None):
        lock_all(trace, op, f"its channels lie along an axis that {op.name} does not sum over", entry, outputs, inputs)
        return True
    if isinstance(entry, Labels):
        trace.book.unite(along(entry, len(inputs)), inputs)
    elif isinstance(entry, Bare):
        trace.lock(entry, f"it is multiplied with another parameter ({op.name})")
    produce(trace, op, part.name, Labels(out_axis, outputs), bias)
    return True
