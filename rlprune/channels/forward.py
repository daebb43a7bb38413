"""Running a model on its example inputs: the same way however it is asked, and copies to run."""

from __future__ import annotations

import copy
import sys
import warnings
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from rlprune.channels.copying import duplicate, modules_in, tensors_of
from rlprune.errors import guarding

_RECURRENT = ("lstm", "gru", "rnn_tanh", "rnn_relu")


class OperatorMode(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sees every operator.

    Torch shields such modes from its compiler, and imports that for the purpose: two seconds and 150 MB. Nothing is
    compiled inside `plainly`.
    """

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False


class _PlainRecurrence(TorchFunctionMode):
    """Runs recurrent layers as the matrix products they are, not as one fused operator."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if getattr(func, "__name__", "") in _RECURRENT:
            with warnings.catch_warnings(), ExitStack() as stack:
                warnings.simplefilter("ignore")  # news of other devices
                stack.enter_context(torch.backends.mkldnn.flags(enabled=False))
                stack.enter_context(torch.backends.cudnn.flags(enabled=False))
                return func(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def running(what: str) -> AbstractContextManager[None]:
    """Around what runs a user's network: whatever its forward raises is one UserError, `what` cannot be done to it."""
    return guarding(f"the network cannot be {what}", "its forward must run on its example", 200)


def _no_inference_mode(enabled: bool = True) -> AbstractContextManager[None]:
    """What a model that enters inference mode enters instead."""
    return torch.no_grad() if enabled else torch.enable_grad()


@contextmanager
def plainly(model: nn.Module) -> Iterator[None]:
    """Run operators as training does, so that what is seen and counted does not depend on how one asks.

    That is: not in inference mode, which hides what operators are made of and which the model's own forward may enter
    (that is `no_grad` here), nor under autocast, compiled, or fused.
    """
    fused = torch.backends.mha.get_fastpath_enabled()
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.callback(setattr, torch._C, "_InferenceMode", torch._C._InferenceMode)
        torch._C._InferenceMode = _no_inference_mode  # type: ignore[misc, assignment]
        for device in ("cpu", "cuda"):
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        if "torch._dynamo" in sys.modules:  # else nothing is compiled, and the import takes seconds
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        if any(isinstance(module, nn.RNNBase) for module in model.modules()):  # seeing every function costs time
            stack.enter_context(_PlainRecurrence())
        torch.backends.mha.set_fastpath_enabled(False)
        stack.callback(torch.backends.mha.set_fastpath_enabled, fused)
        yield


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


_EVALUATING = (nn.modules.batchnorm._NormBase, nn.modules.dropout._DropoutNd)


def training_paths(model: nn.Module) -> None:
    """Switch to training mode, but for the layers whose training mode is random or needs large batches."""
    model.train()
    for module in model.modules():
        if isinstance(module, _EVALUATING):
            module.eval()


def modeless(model: nn.Module, asked: Container[int]) -> bool:
    """Whether `training_paths` changes nothing: of a pass that read the modes of the modules `asked` (their ids)."""
    return not any(
        type(module).train is not nn.Module.train
        or "train" in vars(module)
        or (id(module) in asked and not isinstance(module, _EVALUATING))
        for module in model.modules()
    )


def working_copy(model: nn.Module, share: bool = True) -> nn.Module:
    """A copy of the modules that may share the parameters' memory, so that a run cannot change the caller's object."""
    own = tensors_of(modules_in(model)).values() if share else ()
    return duplicate(
        model, {id(p): nn.Parameter(p.detach(), p.requires_grad) for p in own if isinstance(p, nn.Parameter)}
    )


@dataclass
class Forward:
    """How to run a model: its example inputs, copied before every run so that in-place changes do not add up.

    Attributes:
        args: positional inputs.
        kwargs: keyword inputs.
        outputs: picks from what the model returns what counts as its outputs.
    """

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    outputs: Callable[[Any], Any] | None = None

    def changed(self, change: Callable[[Tensor], Tensor]) -> Forward:
        """The same inputs with other tensors."""
        return Forward(*self._copied(change), self.outputs)

    def in_precision(self, dtype: torch.dtype) -> Forward:
        """The same inputs with other floating point numbers."""
        return self.changed(lambda t: t.to(dtype) if t.is_floating_point() else t)

    def double(self) -> Forward:
        """The same inputs in double precision."""
        return self.in_precision(torch.float64)

    def _copied(self, change: Callable[[Tensor], Tensor] = lambda tensor: tensor) -> tuple[Any, Any]:
        """Inputs with no tensor of the caller's in them; what inference mode made becomes an ordinary tensor."""
        inputs = (self.args, dict(self.kwargs))
        memo: dict[int, Any] = {id(t): change(t.detach()).clone() for t in tensors_in(inputs)}
        copied: tuple[Any, Any] = copy.deepcopy(inputs, memo)
        return copied

    def __call__(self, model: nn.Module, prepare: Callable[[list[Tensor]], None] | None = None) -> Any:
        """Run the model; `prepare` sees the input tensors first."""
        with _disable_current_modes():  # the copies are not the model's doing
            args, kwargs = self._copied()
        if prepare is not None:
            prepare(tensors_in((args, kwargs)))
        return model(*args, **kwargs)

    def picked(self, result: Any) -> list[Tensor]:
        """The tensors among the model's outputs that count."""
        return tensors_in(result if self.outputs is None else self.outputs(result))


Step = tuple[Any, torch.Size | None]  # an operator, and the shape of its result if that is one tensor


def step(operator: Any, result: Any) -> Step:
    """One step of a pass."""
    return operator, result.shape if isinstance(result, Tensor) else None


def warn_uncounted(operators: Iterable[str]) -> None:
    """Warn that a count of MACs leaves operators out."""
    names = ", ".join(sorted(operators))
    if names:
        warnings.warn(f"MACs of these operators are not known and not counted: {names}", UserWarning, stacklevel=3)
