"""The table of rules at work: one executed operator after the other."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rlprune.channels.labels import Entry, Labels
from rlprune.channels.rules import joining, layers, mixing, moving
from rlprune.channels.rules.base import RULES, Op, unknown
from rlprune.channels.rules.pointwise import elementwise
from rlprune.channels.trace import Trace

assert joining and layers and mixing and moving  # imported for the rules they enter


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
