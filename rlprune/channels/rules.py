"""What operators do to labels: the table of rules, and the rules of element-wise and unknown operators.

An operator that is not in the table and is not element-wise locks the labels that go into it, so a new operator costs
coverage and never correctness. The other rules are in `moving` (views and copies), `mixing` (reductions, pooling,
normalisation) and `layers` (convolutions and matrix products).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor

from rlprune.channels.groups import IntArray
from rlprune.channels.labels import Bare, Entry, Fixed, Labels, Part

if TYPE_CHECKING:
    from rlprune.channels.tracing import Trace

Rule = Callable[["Trace", "Op"], None]


class Op:
    """One executed operator: its name, its arguments, its outputs."""

    def __init__(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
        self.func = func
        self.name: str = func._schema.name.split("::")[-1]
        self.args = args
        self.kwargs = kwargs
        self.out = out
        self.inputs: list[Tensor] = _tensors((*args, *kwargs.values()))
        self.outputs: list[Tensor] = _tensors(out if isinstance(out, (list, tuple)) else (out,))

    def arg(self, position: int, name: str, default: Any = None) -> Any:
        """An argument by position or name."""
        if position < len(self.args):
            return self.args[position]
        return self.kwargs.get(name, default)


def _tensors(values: Sequence[Any]) -> list[Tensor]:
    found: list[Tensor] = []
    for value in values:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, (list, tuple)):
            found.extend(item for item in value if isinstance(item, Tensor))
    return found


RULES: dict[str, Rule] = {}


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Enter a function as the rule of operators (named without namespace and in-place underscore)."""

    def enter(function: Rule) -> Rule:
        for name in names:
            RULES[name] = function
        return function

    return enter


def apply(trace: Trace, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """Carry labels through one executed operator."""
    op = Op(func, args, kwargs, out)
    trace.follow(op.inputs, op.outputs)
    written = None
    if func._schema.is_mutable and args and isinstance(args[0], Tensor):
        written = (args[0], trace.get(args[0]))
    found = RULES.get(op.name) or RULES.get(op.name.rstrip("_"))
    if found is not None:
        found(trace, op)
    elif torch.Tag.pointwise in func.tags:
        elementwise(trace, op)
    else:
        unknown(trace, op)
    if written is not None:
        _write_through(trace, op, *written)


def _write_through(trace: Trace, op: Op, tensor: Tensor, before: Entry) -> None:
    """After an in-place change gave a tensor labels: other tensors in the same memory hold them too, or parts."""
    after = trace.get(tensor)
    if isinstance(before, Labels) or not isinstance(after, Labels):
        return
    for other in trace.sharing(tensor):
        if other.shape == tensor.shape and other.stride() == tensor.stride():
            trace.put(other, after)
            continue
        reason = f"it is written into a part of another tensor in place ({op.name})"
        trace.lock(after, reason)
        trace.lock(trace.get(other), reason)
        if not isinstance(trace.get(other), Labels):
            trace.put(other, trace.fixed(reason))


def unknown(trace: Trace, op: Op) -> None:
    """An operator without a rule: lock what goes in; what comes out has a fixed size."""
    mix(trace, op, f"operator {op.name} is not known to act channel by channel")


def mix(trace: Trace, op: Op, reason: str, tensors: Sequence[Tensor] | None = None) -> None:
    """Lock the labels of some (default: all) inputs; outputs are fixed, or free if only free tensors went in."""
    entries = [trace.get(tensor) for tensor in (op.inputs if tensors is None else tensors)]
    for entry in entries:
        trace.lock(entry, reason)
    bound = any(entry is not None for entry in entries)
    for out in op.outputs:
        if any(out is source for source in op.inputs) and isinstance(trace.get(out), Labels):
            continue  # in place: the labels, now locked, stay
        trace.put(out, trace.fixed(reason) if bound and out.numel() != 1 else None)


def put_moved(trace: Trace, op: Op, entry: Entry) -> None:
    """All outputs get an entry of the same axes; a bare parameter is lost track of, so it is fixed for good."""
    if isinstance(entry, Bare):
        reason = f"it joins a function of a parameter ({op.name})"
        trace.lock(entry, reason)
        entry = trace.fixed(reason)
    for out in op.outputs:
        trace.put(out, entry)


# --- element-wise ----------------------------------------------------------------------------------------------------


@rule("_prelu_kernel", "hardswish", "hardsigmoid", "copy", "where", "lerp", "masked_fill", "rrelu_with_noise",
      "native_dropout", "rrelu_with_noise_functional", "mish", "log_sigmoid_forward")  # fmt: skip
def elementwise(trace: Trace, op: Op) -> None:
    """Broadcast the operands and unite the labels that meet."""
    operands = op.inputs
    if op.name == "copy_" and not isinstance(trace.get(operands[0]), Labels):
        operands = operands[1:]  # the old values are gone
    for out in op.outputs:
        trace.put(out, join(trace, operands, out.shape, op.name))


def aligned(entry: Labels, ndim: int, out_ndim: int) -> int | None:
    """The axis of the labels in a broadcast result."""
    return None if entry.axis is None else entry.axis + out_ndim - ndim


def along(entry: Labels, size: int) -> IntArray:
    """The labels along their axis, also where the whole tensor has one."""
    return entry.vector if entry.axis is not None else np.repeat(entry.vector, size)


def join(trace: Trace, operands: Sequence[Tensor], shape: Sequence[int], name: str) -> Entry:
    """The entry of an element-wise function of some tensors; unites their labels on the way."""
    ndim = len(shape)
    pairs = [(tensor, trace.get(tensor)) for tensor in operands if tensor.ndim <= ndim]
    labelled = [(tensor, entry) for tensor, entry in pairs if isinstance(entry, Labels)]
    if not labelled:
        return _join_unlabelled(trace, pairs, ndim, name)
    axes = {a for tensor, entry in labelled if (a := aligned(entry, tensor.ndim, ndim)) is not None}
    if len(axes) > 1:
        reason = f"channels of two tensors meet crosswise ({name})"
        for _, every in pairs:
            trace.lock(every, reason)
        return trace.fixed(reason)
    if not axes:
        return _join_scalars(trace, pairs, name)
    axis = axes.pop()
    size = shape[axis]
    lone = f"one channel is spread over several others ({name})"
    result: IntArray | None = None
    features = 0
    for tensor, entry in labelled:
        if _extent(tensor, axis, ndim) == 1 and size > 1:  # one value for all channels: a gate
            trace.lock(entry, lone)
            continue
        vector = along(entry, size)
        if result is None:
            result = vector
        elif vector is not result:
            features += 1
            trace.book.unite(result, vector)
            result = np.where(result > 0, result, vector)
    if result is None:
        return trace.fixed(lone)
    if features and name.rstrip("_") in ("add", "sub", "rsub"):
        trace.book.mark(result, "residual")
    for tensor, other in pairs:
        if _extent(tensor, axis, ndim) == size > 1:
            if isinstance(other, Fixed):
                trace.book.lock(result, other.reason)
            elif isinstance(other, Bare):
                attach(trace, other, axis - (ndim - tensor.ndim), result, "scale", name)
    return Labels(axis, result)


def _extent(tensor: Tensor, axis: int, ndim: int) -> int:
    place = axis - (ndim - tensor.ndim)
    return tensor.shape[place] if place >= 0 else 1


def _join_unlabelled(trace: Trace, pairs: Sequence[tuple[Tensor, Entry]], ndim: int, name: str) -> Entry:
    bare = [(tensor, entry) for tensor, entry in pairs if isinstance(entry, Bare)]
    fixed = [entry for tensor, entry in pairs if isinstance(entry, Fixed) and tensor.numel() > 1]
    if bare and not fixed:
        parts = []
        for tensor, entry in bare:
            shift = ndim - tensor.ndim
            for part in entry.parts:
                where = tuple(
                    Labels(w.axis + shift, w.vector) if isinstance(w, Labels) and w.axis is not None else w
                    for w in part.where
                )
                parts.append(Part(part.name, where))
        return Bare(tuple(parts))
    for _, entry in bare:
        trace.lock(entry, f"it joins a tensor of fixed size ({name})")
    if fixed:
        return fixed[0]
    return next((entry for _, entry in pairs if entry is not None), None)


def _join_scalars(trace: Trace, pairs: Sequence[tuple[Tensor, Entry]], name: str) -> Entry:
    """Operands that hold one label each."""
    result: Labels | None = None
    for tensor, entry in pairs:
        if isinstance(entry, Labels):
            if result is not None:
                trace.book.unite(result.vector, entry.vector)
            result = result or entry
        elif entry is not None and tensor.numel() > 1:
            reason = f"one channel is spread over several others ({name})"
            for _, other in pairs:
                trace.lock(other, reason)
            return trace.fixed(reason)
    return result


def attach(trace: Trace, bare: Bare, axis: int, vector: IntArray, role: str, name: str) -> None:
    """Tie a bare parameter to labels along one of its axes; lock them if that cannot be done."""
    for part in bare.parts:
        here = [dim for dim, where in enumerate(part.where) if isinstance(where, Labels) and where.axis == axis]
        lost = any(where == "lost" for where in part.where)
        if not here and not lost:
            continue  # constant along the axis
        if lost or len(here) > 1:
            reason = f"parameter {part.name} has its channels in no dimension of its own ({name})"
            trace.book.lock(vector, trace.book.reason(reason))
            trace.lock(Bare((part,)), reason)
            continue
        where = cast(Labels, part.where[here[0]])
        trace.book.unite(trace.site(part.name, here[0], role)[where.vector], vector)


# --- constants -------------------------------------------------------------------------------------------------------


@rule("zeros_like", "ones_like", "full_like", "empty_like", "rand_like", "randn_like", "bernoulli", "zero", "fill",
      "uniform", "normal")  # fmt: skip
def like(trace: Trace, op: Op) -> None:
    """A tensor that always has the shape of another one, or one overwritten in place by constants."""
    entry = trace.get(op.inputs[0])
    for out in op.outputs:
        trace.put(out, None if isinstance(entry, Bare) and out is not op.inputs[0] else entry)


@rule("zeros", "ones", "full", "empty", "arange", "linspace", "new_zeros", "new_ones", "new_full", "new_empty", "rand",
      "randn", "eye", "scalar_tensor", "randint", "randperm", "new_empty_strided", "empty_strided")  # fmt: skip
def factory(trace: Trace, op: Op) -> None:
    """A new tensor whose size the code chose, perhaps from that of another."""
    for out in op.outputs:
        trace.put(out, None)
