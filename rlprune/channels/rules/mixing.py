"""Rules of reductions, pooling, resizing and normalisation: what keeps channels apart and what mixes them."""

from __future__ import annotations

from typing import cast

from torch import nn

from rlprune.channels.labels import Bare, Fixed, Labels, Lost, Part
from rlprune.channels.rules.base import Op, mix, put_moved, rule, unknown
from rlprune.channels.rules.pointwise import along, attach, elementwise
from rlprune.channels.trace import Trace

# operator -> position of its `dim` argument
_REDUCTIONS: dict[str, int] = {
    "mean": 1, "sum": 1, "amax": 1, "amin": 1, "max": 1, "min": 1, "std": 1, "var": 1, "var_mean": 1, "std_mean": 1,
    "linalg_vector_norm": 2, "norm": 2, "prod": 1, "argmax": 1, "argmin": 1, "any": 1, "all": 1, "logsumexp": 1,
    "median": 1, "nansum": 1, "nanmean": 1, "count_nonzero": 1, "aminmax": 9,
}  # fmt: skip


_ADDING = ("sum", "nansum", "linalg_vector_norm", "norm")
_AVERAGING = ("mean", "std", "var", "var_mean", "std_mean", "nanmean")


def _adds_nothing(op: Op) -> bool:
    order = op.arg(1, "ord", 2) if op.name in ("linalg_vector_norm", "norm") else 1
    return bool(op.inputs[0].is_floating_point() and order is not None and float(order) > 0)


def _reduced_parameter(trace: Trace, op: Op, entry: Bare, axes: set[int]) -> bool:
    """Lengths of a parameter's rows (a cosine classifier's): a function of the axes that are left."""
    tensor = op.inputs[0]
    if not _adds_nothing(op) or tensor.ndim != 2 or len(axes) != 1 or op.outputs[0].ndim != tensor.ndim:
        return False
    parts = []
    for part in entry.parts:
        if any(isinstance(w, Lost) for w in part.where) or not isinstance(trace.tensors[part.name], nn.Parameter):
            return False
        where = tuple(None if isinstance(w, Labels) and w.axis in axes else w for w in part.where)
        parts.append(Part(part.name, where))
    for out in op.outputs:
        trace.put(out, Bare(tuple(parts)))
    return True


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
    axes = {int(d) % max(tensor.ndim, 1) for d in dims} if dims else set(range(tensor.ndim))
    if isinstance(entry, Bare) and op.name in _ADDING and _reduced_parameter(trace, op, entry, axes):
        return
    if not isinstance(entry, Labels):
        mix(trace, op, f"it joins a reduced parameter or constant ({op.name})")
    elif entry.axis is None or entry.axis in axes:
        reason = f"a reduction over its channels depends on all of them ({op.name})"
        if entry.axis is not None and op.name in _ADDING and _adds_nothing(op):
            pass  # a silent channel adds nothing to a sum or a length; the check sees whether it is silent here
        elif entry.axis is not None and op.name in _AVERAGING:
            trace.soften(entry.vector, reason)
        else:
            trace.lock(entry, reason)
        for out in op.outputs:
            trace.put(out, trace.fixed(reason) if out.numel() != 1 else None)
    else:
        for out in op.outputs:
            axis = entry.axis if out.ndim == tensor.ndim else entry.axis - sum(a < entry.axis for a in axes)
            trace.put(out, Labels(axis, entry.vector))


@rule("_softmax", "_log_softmax", "softmax", "log_softmax", "cumsum", "cumprod", "logcumsumexp", "_safe_softmax")
def along_axis(trace: Trace, op: Op) -> None:
    """Softmax and cumulative sums: over other axes channels stay apart."""
    tensor = op.args[0]
    entry = trace.get(tensor)
    axis = int(op.arg(1, "dim")) % max(tensor.ndim, 1)
    if isinstance(entry, Labels) and entry.axis == axis and "softmax" in op.name:
        trace.soften(entry.vector, f"it mixes all channels ({op.name})")
        trace.put(op.out, entry)
    elif isinstance(entry, Labels) and entry.axis in (axis, None):
        mix(trace, op, f"it mixes all channels ({op.name})")
    else:
        put_moved(trace, op, entry)


_SPATIAL = {
    "max_pool1d": 1, "max_pool1d_with_indices": 1, "avg_pool1d": 1, "adaptive_avg_pool1d": 1, "adaptive_max_pool1d": 1,
    "max_pool2d": 2, "max_pool2d_with_indices": 2, "avg_pool2d": 2, "_adaptive_avg_pool2d": 2,
    "adaptive_avg_pool2d": 2, "adaptive_max_pool2d": 2, "max_pool3d": 3, "max_pool3d_with_indices": 3,
    "avg_pool3d": 3, "_adaptive_avg_pool3d": 3, "adaptive_avg_pool3d": 3, "adaptive_max_pool3d": 3,
    "fractional_max_pool2d": 2, "reflection_pad1d": 1, "reflection_pad2d": 2, "reflection_pad3d": 3,
    "replication_pad1d": 1, "replication_pad2d": 2, "replication_pad3d": 3, "upsample_nearest1d": 1,
    "_upsample_nearest_exact1d": 1, "upsample_linear1d": 1, "upsample_nearest2d": 2, "_upsample_nearest_exact2d": 2,
    "upsample_bilinear2d": 2, "_upsample_bilinear2d_aa": 2, "upsample_bicubic2d": 2, "_upsample_bicubic2d_aa": 2,
    "upsample_nearest3d": 3, "_upsample_nearest_exact3d": 3, "upsample_trilinear3d": 3, "mkldnn_max_pool2d": 2,
    "grid_sampler_2d": 2, "grid_sampler_3d": 3, "cudnn_grid_sampler": 2, "max_unpool2d": 2,
}  # fmt: skip


@rule(*_SPATIAL)
def spatial(trace: Trace, op: Op) -> None:
    """Pooling, resizing, sampling and padding of the trailing axes; the others are treated alike."""
    tensor = op.inputs[0]
    entry = trace.get(tensor)
    for other in op.inputs[1:]:
        own = trace.get(other)
        if "grid_sampler" in op.name and isinstance(own, Labels) and own.axis == 0 == getattr(entry, "axis", None):
            trace.book.unite(cast(Labels, entry).vector, own.vector)  # channels folded into the batch, and their grids
        elif op.name != "max_unpool2d":
            trace.lock(own, f"its values steer another tensor ({op.name})")
    if isinstance(entry, Labels) and (entry.axis is None or entry.axis >= tensor.ndim - _SPATIAL[op.name]):
        mix(trace, op, f"its channels lie along an axis that {op.name} mixes", [tensor])
    else:
        put_moved(trace, op, entry)


@rule("native_batch_norm", "_native_batch_norm_legit", "_native_batch_norm_legit_no_training", "cudnn_batch_norm",
      "_batch_norm_with_update", "_batch_norm_no_update", "miopen_batch_norm")  # fmt: skip
def batch_norm(trace: Trace, op: Op) -> None:
    """Per-channel normalisation on axis 1."""
    _normalise(trace, op, axis=1)


def _normalise(trace: Trace, op: Op, axis: int) -> None:
    tensor = op.args[0]
    entry = trace.get(tensor)
    if not isinstance(entry, Labels):
        put_moved(trace, op, entry)
        return
    if entry.axis not in (axis, None):
        mix(trace, op, f"it normalises along another axis than its channels' ({op.name})")
        return
    vector = along(entry, tensor.shape[axis])
    for other in op.inputs[1:]:
        own = trace.get(other)
        if isinstance(own, Bare):
            attach(trace, own, 0, vector, "norm", op.name)
        elif isinstance(own, Labels):
            trace.book.unite(along(own, len(vector)), vector)
        elif isinstance(own, Fixed):
            reason = f"its normalisation uses a tensor that is neither parameter nor buffer ({op.name})"
            trace.book.lock(vector, trace.book.reason(reason))
    trace.put(op.outputs[0], Labels(axis, vector))
    for out in op.outputs[1:]:
        trace.put(out, Labels(0, vector) if out.ndim == 1 and len(out) == len(vector) else None)


@rule("native_group_norm")
def group_norm(trace: Trace, op: Op) -> None:
    """Group normalisation: all channels of a norm group go together, so that whole norm groups go."""
    tensor, count = op.args[0], int(op.args[6])
    entry = trace.get(tensor)
    if isinstance(entry, Labels) and entry.axis == 1:
        if count == 1:
            trace.soften(entry.vector, f"group normalisation mixes the statistics of all its channels ({op.name})")
        elif count < len(entry.vector):
            table = entry.vector.reshape(count, -1)
            for column in range(1, table.shape[1]):
                trace.book.unite(table[:, 0], table[:, column])
            trace.book.mark(entry.vector, "whole groups of a group normalisation go together")
    else:
        trace.lock(entry, f"group normalisation mixes the statistics of its channels ({op.name})")
    _normalise(trace, op, axis=1)
    for out in op.outputs[1:]:
        trace.put(out, None)


@rule("native_layer_norm", "_fused_rms_norm", "rms_norm")
def layer_norm(trace: Trace, op: Op) -> None:
    """Layer normalisation mixes everything along the normalised axes."""
    tensor = op.args[0]
    entry = trace.get(tensor)
    count = len(op.args[1])
    if not isinstance(entry, Labels):
        put_moved(trace, op, entry)
        return
    if entry.axis is None or entry.axis >= tensor.ndim - count:
        reason = f"layer normalisation mixes the statistics of its channels ({op.name})"
        if entry.axis is None:
            trace.lock(entry, reason)
        else:
            trace.soften(entry.vector, reason)
        for other in op.inputs[1:]:
            own = trace.get(other)
            if isinstance(own, Bare) and entry.axis is not None:
                attach(trace, own, entry.axis - (tensor.ndim - count), entry.vector, "norm", op.name)
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
    elif isinstance(entry, Labels) and entry.axis is None:
        mix(trace, op, "it is multiplied with itself (glu)")
    else:
        put_moved(trace, op, entry)


@rule("roi_align", "roi_pool")
def regions(trace: Trace, op: Op) -> None:
    """Features cut out at boxes: channels stay apart, boxes are fixed."""
    entry = trace.get(op.args[0])
    trace.lock(trace.get(op.args[1]), f"its values place boxes ({op.name})")
    if isinstance(entry, Labels) and entry.axis == 1:
        trace.put(op.outputs[0], entry)
        for out in op.outputs[1:]:
            trace.put(out, None)
    else:
        unknown(trace, op)
