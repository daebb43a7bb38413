"""trace_channels: run a model once on its example inputs and see which channels are coupled.

The model runs eagerly, in evaluation mode and without gradients, under a `TorchDispatchMode` that sees every operator
after autograd and modules are gone; so functional calls, detached tensors and untouched source all look alike. For
each operator a rule (see `rules`) carries labels from its inputs to its outputs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from rlprune.channels.assembling import assemble
from rlprune.channels.checking import CHECKS, check_groups
from rlprune.channels.computed import NEVER, Locked, makers
from rlprune.channels.forward import Forward, named_tensors, tensors_in, training_paths, working_copy
from rlprune.channels.groups import ChannelGroups
from rlprune.channels.rules.table import apply
from rlprune.channels.trace import ParameterWritten, Trace
from rlprune.errors import UserError


class _Tracer(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self, trace: Trace) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.trace = trace

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func._schema.is_mutable and args and isinstance(args[0], Tensor) and not self.trace.private:
            name = self.trace.parameter_storages.get(args[0].untyped_storage()._cdata)
            if name is not None:
                raise ParameterWritten(name)
        out = func(*args, **kwargs)
        apply(self.trace, func, args, kwargs, out)
        return out


def run_trace(model: nn.Module, forward: Forward) -> Trace:
    """Run a model's copy on labels and return what was gathered."""
    try:
        return _run_trace(model, forward, private=False)
    except ParameterWritten:
        return _run_trace(model, forward, private=True)


def _run_trace(model: nn.Module, forward: Forward, private: bool) -> Trace:
    worker = working_copy(model, share=not private).eval()
    trace = Trace(named_tensors(worker), private, makers(worker))

    def prepare(inputs: list[Tensor]) -> None:
        for tensor in inputs:
            trace.put(tensor, trace.fixed("it joins the model's input, which keeps its channels"))
            trace.activate(tensor)

    def run() -> None:
        with torch.no_grad(), _Tracer(trace):
            outputs = forward(worker, prepare)
        for tensor in tensors_in(outputs):
            trace.lock(trace.get(tensor), "it is an output of the model")

    run()
    if trace.never_ran():
        # layers that only run in training (auxiliary heads) read channels too
        training_paths(worker)
        trace.counting = False
        try:
            run()
            trace.training = True
        except ParameterWritten:
            raise
        except Exception:  # many models cannot train on bare example inputs
            trace.training = False
    modules: dict[str, Any] = dict(worker.named_modules())
    for name, weight in trace.never_ran().items():
        module = modules.get(name)
        rows = len(trace.tensors[weight])
        size: int = getattr(module, "out_channels", getattr(module, "out_features", rows))
        reason = NEVER.format("nor in training mode" if trace.training else "and training mode fails on these inputs")
        trace.computed.setdefault(name, Locked(size, reason, len(trace.calls) + len(trace.computed)))
    return trace


def trace_channels(
    model: nn.Module,
    *example_inputs: Any,
    check: str = "on",
    kwargs: Mapping[str, Any] | None = None,
    keep: Iterable[str] = (),
    min_channels: int = 2,
    round_to: int = 1,
) -> ChannelGroups:
    """Find the channel groups of a model.

    Args:
        model: any module; it comes out untouched.
        *example_inputs: what the model is called with (tensors, lists, dicts, dataclasses of them). MACs are counted
            for these inputs, so give a batch of one.
        check: "on" compares masked with removed networks and locks every group that fails; "strict" raises instead;
            "off" trusts the trace.
        kwargs: keyword inputs of the model.
        keep: shell patterns of layers or groups to lock.
        min_channels: units that every group keeps.
        round_to: every group keeps a multiple of this many units.

    Returns:
        The groups, in execution order; those that cannot be pruned are locked with a reason.

    Raises:
        UserError: a bad option, a pattern that matches nothing, or in strict mode a group that fails the check.

    >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
    >>> for group in trace_channels(model, torch.zeros(1, 3, 8, 8)):
    ...     print(group.name, group.size, group.locked)
    0 8 None
    2 4 it is an output of the model
    """
    if check not in CHECKS:
        raise UserError(f"check is {check!r}; it must be one of {', '.join(CHECKS)}")
    forward = Forward(example_inputs, dict(kwargs or {}))
    trace = run_trace(model, forward)
    groups = assemble(trace, model)
    groups = groups.with_minimum(min_channels, round_to).lock(keep)
    if check == "off":
        return groups
    if trace.private:
        model = working_copy(model, share=False)
    return check_groups(model, groups, forward, strict=check == "strict", training=trace.training)
