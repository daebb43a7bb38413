"""Rules: what an operator does to labels. The registry, and what a rule falls back on.

An operator that is not in the registry and is not element-wise locks the labels that go into it, so a new operator
costs coverage and never correctness.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from rlprune.channels.labels import Bare, Entry, Labels
from rlprune.channels.trace import Trace

Rule = Callable[[Trace, "Op"], None]


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


def find_rule(func: Any) -> Rule | None:
    """The rule of an operator that is not just element-wise, if there is one."""
    name: str = func._schema.name.split("::")[-1]
    return RULES.get(name) or RULES.get(name.rstrip("_"))


def unknown(trace: Trace, op: Op) -> None:
    """An operator without a rule: lock what goes in; what comes out has a fixed size."""
    weights = [t for t in op.inputs if t.ndim > 1 and t.untyped_storage()._cdata in trace.parameter_storages]
    if weights and any(trace.is_active(tensor) for tensor in op.inputs):
        trace.uncounted.add(op.name)
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
