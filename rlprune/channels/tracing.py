"""trace_channels: run a model once on its example inputs and see which channels are coupled.

The model runs eagerly, in evaluation mode and without gradients, under a `TorchDispatchMode` that sees every operator
after autograd and modules are gone; so functional calls, detached tensors and untouched source all look alike. For
each operator a rule (see `rules`) carries labels from its inputs to its outputs.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from rlprune.channels.assembling import assemble
from rlprune.channels.attributes import Reads, choices, watched_attributes
from rlprune.channels.checking import CHECKS, check_groups
from rlprune.channels.computed import NEVER, Locked, makers
from rlprune.channels.copying import unwrapped
from rlprune.channels.forward import (
    Forward,
    OperatorMode,
    named_tensors,
    plainly,
    running,
    step,
    tensors_in,
    training_paths,
    warn_uncounted,
    working_copy,
)
from rlprune.channels.groups import ChannelGroups
from rlprune.channels.lockstep import close
from rlprune.channels.reuse import Reuse, Reusing
from rlprune.channels.rules.table import apply
from rlprune.channels.trace import ParameterWritten, Trace
from rlprune.channels.trial import passing
from rlprune.errors import UserError
from rlprune.heap import collecting_anew, give_back, keeping_activations
from rlprune.seeding import seeded

_BOUND = (
    "the model's copy runs on the original's {name!r}: `forward` or a hook of the object is bound to it; "
    "hand over the plain module, with what it does in its class's forward"
)


_READS_INPUT = re.compile(r"(^|\.)weight_ih(_l0(_reverse)?)?$")  # of a recurrent layer
_READS_KEYS = re.compile(r"(^|\.)[kv]_proj_weight$")  # of attention whose keys and values have widths of their own


class _Tracer(OperatorMode):
    def __init__(self, trace: Trace, originals: Mapping[int, str], reuse: Reuse) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.trace = trace
        self.originals = originals
        self._reuse = reuse

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        for value in args:
            if id(value) in self.originals:
                raise UserError(_BOUND.format(name=self.originals[id(value)]))
        if func._schema.is_mutable and args and isinstance(args[0], Tensor) and not self.trace.private:
            name = self.trace.parameter_storages.get(args[0].untyped_storage()._cdata)
            if name is not None:
                raise ParameterWritten(name)
        out = self._reuse(func, args, kwargs)
        if self.trace.counting:
            self.trace.path.append(step(func, out))
        apply(self.trace, func, args, kwargs, out)
        return out


@contextmanager
def _same_numbers() -> Iterator[None]:
    """The same random numbers in every run."""
    with seeded(0), torch.no_grad():
        yield


def run_trace(model: nn.Module, forward: Forward, approximate: bool = False) -> Trace:
    """Run a model's copy on labels and return what was gathered."""
    try:
        trace = _run_trace(model, forward, False, approximate)
    except ParameterWritten:
        trace = _run_trace(model, forward, True, approximate)
    trace.forget()
    return trace


def _run_trace(model: nn.Module, forward: Forward, private: bool, approximate: bool) -> Trace:
    worker = working_copy(model, share=not private).eval()
    trace = Trace(named_tensors(worker), private, makers(worker), approximate)
    _keep_hidden_states(trace, worker)
    originals = {id(tensor): name for name, tensor in named_tensors(model).items()}
    reads: Reads = {}
    reuse = Reuse()
    paths = {id(module): path for path, module in worker.named_modules()}

    def prepare(inputs: list[Tensor]) -> None:
        for tensor in inputs:
            trace.put(tensor, trace.fixed("it joins the model's input, which keeps its channels"))
            trace.activate(tensor)

    def run() -> list[Tensor]:
        watched = watched_attributes(reads, trace.head_counts)
        with reuse.another_pass(), watched, _same_numbers(), _Tracer(trace, originals, reuse):
            result = forward(worker, prepare)
        outputs = forward.picked(result) if trace.counting else tensors_in(result)
        for tensor in outputs:
            trace.lock(trace.get(tensor), "it is an output of the model")
        trace.forget()
        return outputs

    outputs = run()
    if not private:  # else running the original would change it
        _check_copy(model, forward, outputs, reuse)
    if trace.never_ran():
        # layers that only run in training (auxiliary heads) read channels too
        training_paths(worker)
        trace.counting = False
        try:
            run()
            trace.training = True
        except (ParameterWritten, UserError):
            raise
        except Exception:  # many models cannot train on bare example inputs
            trace.training = False
    trace.reads = {(paths[module], name) for module, name in reads if module in paths}
    _enter_idle_layers(trace, worker)
    return trace


def _enter_idle_layers(trace: Trace, worker: nn.Module) -> None:
    """Layers that never ran are known by name, and stay."""
    modules: dict[str, Any] = dict(worker.named_modules())
    for name, weight in trace.never_ran().items():
        module = modules.get(name)
        rows = len(trace.tensors[weight])
        size: int = getattr(module, "out_channels", getattr(module, "out_features", rows))
        reason = NEVER.format("nor in training mode" if trace.training else "and training mode fails on these inputs")
        trace.computed.setdefault(name, Locked(size, reason, len(trace.calls) + len(trace.computed)))


def _keep_hidden_states(trace: Trace, worker: nn.Module) -> None:
    """Recurrent layers and attention of torch.nn lose inputs only.

    Both directions and all gates of a recurrent layer share one hidden size; `nn.MultiheadAttention` takes the width
    of its heads from that of its queries.
    """
    for path, module in worker.named_modules():
        if isinstance(module, (nn.RNNBase, nn.RNNCellBase)):
            text, inputs = "the hidden state of a recurrent layer keeps its size", _READS_INPUT
        elif isinstance(module, nn.MultiheadAttention):
            text, inputs = (
                "operator multi_head_attention_forward makes its heads as wide as its queries say",
                _READS_KEYS,
            )
        else:
            continue
        reason = trace.book.reason(text)
        for name, parameter in module.named_parameters(path, recurse=False):
            for dim in range(parameter.ndim):
                if dim == 0 or not inputs.search(name):
                    trace.book.lock(trace.site(name, dim, "in" if dim else "out"), reason)


def _check_copy(model: nn.Module, forward: Forward, outputs: list[Tensor], reuse: Reuse) -> None:
    """The copy that was traced must give the model's own outputs; `reuse` has seen its pass.

    Raises:
        UserError: it does not.
    """
    flags = [(module, module.training) for module in model.modules()]
    states = [(module, dict(vars(module))) for module, _ in flags]
    tables = [(t, _content(t)) for _, state in states for t in state.values() if isinstance(t, (dict, list, set))]
    buffers = [(buffer, buffer.detach().clone()) for buffer in model.buffers()]
    if any(training for _, training in flags):
        model.eval()
    try:
        with reuse.another_pass(), _same_numbers(), Reusing(reuse):
            expected = forward.picked(forward(model))
    finally:
        for module, state in states:  # caches that a run fills, and hooks that it sets, are not left behind
            module.__dict__.clear()
            module.__dict__.update(state)
        for table, content in tables:
            if (content or table) and list(map(id, content)) != list(map(id, _content(table))):
                _fill(table, content)  # one that refuses changes has none
        with torch.no_grad():
            for buffer, value in buffers:
                buffer.copy_(value)
    same = len(expected) == len(outputs) and all(
        a.shape == b.shape and close(a, b, 1e-2) for a, b in zip(expected, outputs, strict=True)
    )
    if not same:
        raise UserError(
            "the model's deep copy does not compute what the model does; hand over a plain module whose copies are "
            "complete (nothing kept outside of it, no __deepcopy__ of its own)"
        )


def trace_channels(
    model: nn.Module,
    *example_inputs: Any,
    check: str = "on",
    kwargs: Mapping[str, Any] | None = None,
    keep: Iterable[str] = (),
    min_channels: int = 2,
    round_to: int = 1,
    approximate: bool = False,
    outputs: Callable[[Any], Any] | None = None,
) -> ChannelGroups:
    """Find the channel groups of a model.

    Args:
        model: any module; it comes out untouched. Wrappers for data parallel training and `torch.compile` are looked
            through: the groups are those of the network inside.
        *example_inputs: what the model is called with (tensors, lists, dicts, dataclasses of them). MACs are counted
            for these inputs, so give a batch of one.
        check: "on" compares masked with removed networks and locks every group that fails; "strict" raises instead;
            "off" trusts the trace.
        kwargs: keyword inputs of the model.
        keep: shell patterns of layers or groups to lock.
        min_channels: units that every group keeps.
        round_to: every group keeps a multiple of this many units.
        approximate: also offer groups whose removal keeps everything running but changes more than the channels that
            go: statistics of a layer normalisation, a mean or a softmax over channels. They say so in `approximate`.
        outputs: picks from what the model returns what must stay (its predictions, say); default: everything.

    Returns:
        The groups, in execution order; those that cannot be pruned are locked with a reason.

    Raises:
        UserError: a bad option, a pattern that matches nothing, a model whose copies are not faithful, or in strict
            mode a group that fails the check.

    >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
    >>> for group in trace_channels(model, torch.zeros(1, 3, 8, 8)):
    ...     print(group.name, group.size, group.locked)
    0 8 None
    2 4 it is an output of the model
    """
    if check not in CHECKS:
        raise UserError(f"check is {check!r}; it must be one of {', '.join(CHECKS)}")
    model = unwrapped(model)
    forward = Forward(example_inputs, dict(kwargs or {}), outputs)
    with plainly(model), running("traced"), collecting_anew(), keeping_activations():
        trace = run_trace(model, forward, approximate)
        groups = assemble(trace, model).with_minimum(min_channels, round_to).lock(keep)
        follow = choices(model, groups, trace.reads)
        if check != "off":
            if trace.private:
                model = working_copy(model, share=False)
            groups = passing(model, groups, forward, follow, trace) or check_groups(
                model, groups, forward, strict=check == "strict", choices=follow
            )
        else:
            groups = groups.with_attributes(a for choice in follow if (a := choice.attribute(choice.first)) is not None)
    give_back()  # else the caller's process keeps what its activations took
    warn_uncounted(groups.uncounted)
    return groups


def _content(table: Any) -> list[Any]:
    """What a list or set holds; of a dict its keys, then its values."""
    return [*table, *table.values()] if isinstance(table, dict) else [*table]


def _fill(table: Any, content: list[Any]) -> None:
    """Put back what `_content` found."""
    table.clear()
    if isinstance(table, list):
        table.extend(content)
    elif isinstance(table, set):
        table.update(content)
    else:
        half = len(content) // 2
        table.update(zip(content[:half], content[half:], strict=True))
