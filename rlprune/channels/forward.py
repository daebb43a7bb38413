"""Running a model on its example inputs, and copies to run."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

from torch import Tensor, nn
from torch.utils._python_dispatch import _disable_current_modes

from rlprune.channels.computed import graph_tensors
from rlprune.errors import UserError


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
