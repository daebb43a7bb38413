"""trace_channels: run a model once on its example inputs and see which channels are coupled.

The model runs eagerly, in evaluation mode and without gradients, under a `TorchDispatchMode` that sees every operator
after autograd and modules are gone; so functional calls, detached tensors and untouched source all look alike. For
each operator a rule (see `rules`) carries labels from its inputs to its outputs.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from rlprune.channels import layers, mixing, moving, rules
from rlprune.channels.computed import NEVER, Locked, graph_tensors, makers, owner
from rlprune.channels.groups import ChannelGroups, IntArray
from rlprune.channels.labels import Bare, Book, Entry, Fixed, Labels, Part
from rlprune.errors import UserError


@dataclass
class Call:
    """What is known of one layer (a weight used by convolutions or matrix products) after all its calls."""

    weight: str
    kind: str
    order: int
    groups: int = 1
    kernel: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    bias: str | None = None
    macs: int = 0
    in_extent: int = 0
    out_extent: int = 0


class Trace:
    """Everything gathered while the model runs: labels of tensors, of parameters, and the calls of layers."""

    def __init__(
        self, tensors: Mapping[str, Tensor], private: bool = False, made: Mapping[str, tuple[str, str]] | None = None
    ) -> None:
        self.private = private  # whether the parameters are copies that the forward pass may write to
        self.makers = made or {}  # see `computed.makers`
        self.computed: dict[str, Locked] = {}
        self.parameter_storages = {
            t.untyped_storage()._cdata: n for n, t in tensors.items() if isinstance(t, nn.Parameter)
        }
        self.book = Book()
        self.tensors = dict(tensors)
        self.sites: dict[tuple[str, int], IntArray] = {}
        self.roles: dict[tuple[str, int], str] = {}
        self.calls: dict[str, Call] = {}
        self.fixed_macs = 0
        self.locked_tensors: dict[str, int] = {}
        self.touched: set[int] = set()
        self.training = False  # whether a pass in training mode found more layers
        self.counting = True
        self._active: dict[int, Tensor] = {}  # what is computed from the model's inputs
        self._sources = {id(tensor): frozenset([name]) for name, tensor in tensors.items()}
        self._entries: dict[int, Entry] = {}
        self._alive: list[Tensor] = []  # else id() would be reused
        self._storages: dict[int, list[Tensor]] = {}
        self._storage_of: dict[int, int] = {}
        for name, tensor in tensors.items():
            where = tuple(
                Labels(dim, np.arange(size, dtype=np.int64)) if size > 1 else None
                for dim, size in enumerate(tensor.shape)
            )
            self.put(tensor, Bare((Part(name, where),)))

    def put(self, tensor: Tensor, entry: Entry) -> None:
        """Remember what a tensor's elements belong to."""
        storage = tensor.untyped_storage()._cdata
        if self._storage_of.get(id(tensor)) != storage:
            self._storage_of[id(tensor)] = storage
            self._alive.append(tensor)
            self._storages.setdefault(storage, []).append(tensor)
        self._entries[id(tensor)] = entry

    def get(self, tensor: Tensor) -> Entry:
        """What a tensor's elements belong to; a tensor never seen is a constant."""
        if id(tensor) not in self._entries:
            self.put(tensor, self.fixed("it joins a constant tensor that is neither parameter nor buffer"))
        return self._entries[id(tensor)]

    def follow(self, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> None:
        """Remember for the outputs of an operator whether they depend on the model's inputs, else on which tensors."""
        self.touched.update(map(id, inputs))
        active = any(id(tensor) in self._active for tensor in inputs)
        names = frozenset().union(*(self._sources.get(id(tensor), frozenset()) for tensor in inputs))
        for out in outputs:
            if active:
                self._active[id(out)] = out
            elif names:
                self._alive.append(out)
                self._sources[id(out)] = names

    def activate(self, tensor: Tensor) -> None:
        """Enter an input of the model."""
        self._active[id(tensor)] = tensor

    def is_active(self, tensor: Tensor) -> bool:
        """Whether a tensor depends on the model's inputs."""
        return id(tensor) in self._active

    def sources(self, tensor: Tensor) -> list[str]:
        """The parameters that a tensor is computed from; none if the model's inputs go into it."""
        names = frozenset() if self.is_active(tensor) else self._sources.get(id(tensor), frozenset())
        return [name for name in self.tensors if name in names and isinstance(self.tensors[name], nn.Parameter)]

    def sharing(self, tensor: Tensor) -> list[Tensor]:
        """The other known tensors in the same memory."""
        storage = tensor.untyped_storage()._cdata
        known = self._storages.get(storage, [])  # some may have moved on (`set_`), and freed memory is used again
        return [t for t in known if t is not tensor and t.untyped_storage()._cdata == storage]

    def fixed(self, reason: str) -> Fixed:
        """An entry for a tensor that cannot change its size."""
        return Fixed(self.book.reason(reason))

    def site(self, name: str, dim: int, role: str = "scale") -> IntArray:
        """Labels of the positions of a parameter along one dimension; the first call makes them."""
        key = (name, dim)
        if key not in self.sites:
            size = self.tensors[name].shape[dim]
            self.sites[key] = self.book.fresh(size)
            self.roles[key] = role
            if name in self.locked_tensors:
                self.book.lock(self.sites[key], self.locked_tensors[name])
        elif self.roles[key] == "scale":
            self.roles[key] = role
        return self.sites[key]

    def lock(self, entry: Entry, reason: str) -> None:
        """Lock whatever an entry holds: labels now, a bare parameter's labels for good."""
        code = self.book.reason(reason)
        if isinstance(entry, Labels):
            self.book.lock(entry.vector, code)
        elif isinstance(entry, Bare):
            for part in entry.parts:
                self.locked_tensors.setdefault(part.name, code)
                for dim in range(len(part.where)):
                    if (part.name, dim) in self.sites:
                        self.book.lock(self.sites[part.name, dim], code)

    def count_fixed(self, macs: int) -> None:
        """Count MACs of a product whose weight is no whole parameter; they never change."""
        if self.counting:
            self.fixed_macs += macs

    def call(self, weight: str, kind: str, macs: int, in_extent: int, out_extent: int) -> Call:
        """Count one call of a layer."""
        call = self.calls.setdefault(weight, Call(weight, kind, len(self.calls) + len(self.computed)))
        if self.counting:
            call.macs += macs
            call.in_extent += in_extent
            call.out_extent += out_extent
        return call

    def never_ran(self) -> dict[str, str]:
        """Layers whose weights (parameters of two dimensions or more) no operator saw -> such a weight."""
        return {
            self.makers.get(name, (owner(name), ""))[0]: name
            for name, t in self.tensors.items()
            if isinstance(t, nn.Parameter) and t.ndim > 1 and id(t) not in self.touched
        }


class ParameterWritten(RuntimeError):
    """The forward pass writes into a parameter, so the trace needs a copy of its own."""


assert layers and mixing and moving  # imported for the rules they enter


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
        rules.apply(self.trace, func, args, kwargs, out)
        return out


def tensors_in(value: Any, seen: set[int] | None = None) -> list[Tensor]:
    """All tensors inside nested lists, tuples, dicts, dataclasses and plain objects with attributes, in order."""
    seen = set() if seen is None else seen
    if isinstance(value, Tensor):
        return [value]
    if value is None or isinstance(value, (str, bytes, int, float, bool, type, nn.Module)) or id(value) in seen:
        return []
    seen.add(id(value))
    if isinstance(value, Mapping):
        items: list[Any] = list(value.values())
    elif is_dataclass(value):
        items = [getattr(value, f.name) for f in fields(value)]
    elif isinstance(value, (list, tuple, set, frozenset)):
        items = list(value)
    else:
        names = [name for cls in type(value).__mro__ for name in getattr(cls, "__slots__", ())]
        items = [*vars(value).values()] if hasattr(value, "__dict__") else []
        items += [getattr(value, name, None) for name in names if name not in ("__dict__", "__weakref__")]
    return [tensor for item in items for tensor in tensors_in(item, seen)]


def named_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name; a tied one under its first name only."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def training_paths(model: nn.Module) -> None:
    """Switch to training mode, but for the layers whose training mode is random or needs large batches."""
    model.train()
    for module in model.modules():
        if isinstance(module, (nn.modules.batchnorm._NormBase, nn.modules.dropout._DropoutNd)):
            module.eval()


def working_copy(model: nn.Module, share: bool = True) -> nn.Module:
    """A copy of the modules that may share the parameters, so that a forward pass cannot change the caller's object."""
    memo: dict[int, Any] = {**graph_tensors(model), **({id(p): p for p in model.parameters()} if share else {})}
    try:
        return copy.deepcopy(model, memo)
    except (RuntimeError, TypeError) as error:
        raise UserError(f"the model cannot be deep-copied ({error}); keep no graph tensors or handles in it") from error


@dataclass
class Forward:
    """How to run a model: its example inputs, copied before every run so that in-place changes do not add up."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any] = field(default_factory=dict)

    def double(self) -> Forward:
        """The same inputs in double precision."""
        memo: dict[int, Any] = {
            id(t): t.double() for t in tensors_in((self.args, dict(self.kwargs))) if t.is_floating_point()
        }
        return Forward(*copy.deepcopy((self.args, dict(self.kwargs)), memo))

    def __call__(self, model: nn.Module, prepare: Callable[[list[Tensor]], None] | None = None) -> Any:
        """Run the model; `prepare` sees the input tensors first."""
        with _disable_current_modes():  # the copies are not the model's doing
            args, kwargs = copy.deepcopy((self.args, dict(self.kwargs)))
        if prepare is not None:
            prepare(tensors_in((args, kwargs)))
        return model(*args, **kwargs)


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
    from rlprune.channels.assembling import assemble
    from rlprune.channels.checking import CHECKS, check_groups

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
