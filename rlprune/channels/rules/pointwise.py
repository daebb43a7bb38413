"""Rules of element-wise operators, which unite the labels that meet, and of constants."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np
from torch import Tensor

from rlprune.channels.labels import Bare, Entry, Fixed, Labels, Lost, Part
from rlprune.channels.rules.base import Op, rule
from rlprune.channels.trace import Trace
from rlprune.channels.units import IntArray

CROSSWISE = "channels of two tensors meet crosswise"


@rule("_prelu_kernel", "hardswish", "hardsigmoid", "copy", "where", "lerp", "masked_fill", "rrelu_with_noise",
      "complex", "polar", "native_dropout", "rrelu_with_noise_functional", "mish", "log_sigmoid_forward")  # fmt: skip
def elementwise(trace: Trace, op: Op) -> None:
    """Broadcast the operands and unite the labels that meet."""
    operands = op.inputs
    if op.name == "copy_" and trace.labels(operands[0]) is None:
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
        axes, labelled = _crosswise(trace, pairs, labelled, axes, shape, name)
        if not axes:
            return trace.fixed(f"{CROSSWISE} ({name})")
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
            if isinstance(other, Fixed) and tensor.stride(axis - (ndim - tensor.ndim)) != 0:  # 0: one value, expanded
                trace.book.lock(result, other.reason)
            elif isinstance(other, Bare):
                attach(trace, other, axis - (ndim - tensor.ndim), result, "scale", name)
    return Labels(axis, result)


def _crosswise(
    trace: Trace, pairs: Sequence[tuple[Tensor, Entry]], labelled: Sequence[tuple[Tensor, Labels]], axes: set[int],
    shape: Sequence[int], name: str,
) -> tuple[set[int], list[tuple[Tensor, Labels]]]:  # fmt: skip
    """Labels along several axes of a broadcast result: those along the first may go where all others are one long.

    Returns that axis, if there is one, and what has labels along it.
    """
    ndim = len(shape)
    along_axis = {id(t): aligned(entry, t.ndim, ndim) for t, entry in labelled}
    free = [a for a in axes if all(along_axis[id(t)] in (a, None) or _extent(t, a, ndim) == 1 for t, _ in labelled)]
    kept = set(sorted(free)[:1])
    left = [(t, entry) for t, entry in labelled if kept and along_axis[id(t)] in (None, *kept)]
    for tensor, entry in pairs:
        if not any(tensor is t for t, _ in left):
            trace.lock(entry, f"{CROSSWISE} ({name})")
    return kept, left


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
                parts.append(Part(part.name, tuple(_shifted(where, shift) for where in part.where)))
        return Bare(tuple(parts))
    for _, entry in bare:
        trace.lock(entry, f"it joins a tensor of fixed size ({name})")
    if fixed:
        return fixed[0]
    return next((entry for _, entry in pairs if entry is not None), None)


def _shifted(where: Labels | Lost | None, shift: int) -> Labels | Lost | None:
    """Where a parameter's dimension lies once axes were put before."""
    if isinstance(where, Lost):
        return Lost(frozenset(axis + shift for axis in where.axes))
    return Labels(where.axis + shift, where.vector) if where is not None and where.axis is not None else where


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
        lost = any(isinstance(where, Lost) and axis in where.axes for where in part.where)
        if not here and not lost:
            continue  # constant along the axis
        if lost or len(here) > 1:
            reason = f"parameter {part.name} has its channels in no dimension of its own ({name})"
            trace.book.lock(vector, trace.book.reason(reason))
            trace.lock(Bare((part,)), reason)
            continue
        where = cast(Labels, part.where[here[0]])
        trace.book.unite(trace.site(part.name, here[0], role)[where.vector], vector)


@rule("zeros_like", "ones_like", "full_like", "empty_like", "rand_like", "randn_like", "bernoulli", "zero", "fill",
      "uniform", "normal", "exponential")  # fmt: skip
def like(trace: Trace, op: Op) -> None:
    """A tensor that always has the shape of another one or several, or one overwritten in place by constants."""
    if len(op.inputs) > 1:
        elementwise(trace, op)
        return
    entry = trace.get(op.inputs[0]) if op.inputs else None
    for out in op.outputs:
        trace.put(out, None if isinstance(entry, Bare) and out is not op.inputs[0] else entry)


@rule("zeros", "ones", "full", "empty", "arange", "linspace", "new_zeros", "new_ones", "new_full", "new_empty", "rand",
      "randn", "eye", "scalar_tensor", "randint", "randperm", "new_empty_strided", "empty_strided")  # fmt: skip
def factory(trace: Trace, op: Op) -> None:
    """A new tensor whose size the code chose, perhaps from that of another."""
    for out in op.outputs:
        trace.put(out, None)
