"""Calling a model by position, whatever its `forward` asks for: inputs by keyword get a place in an order."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from torch import nn

from rlprune.errors import UserError

_KEYWORD = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.VAR_KEYWORD)
_STARRED = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


class Order:
    """The order of a model's inputs: the positional ones, then those by keyword alone, as its `forward` names them.

    Args:
        model: Its signature is read. What `**keywords` takes is ordered as the first mapping of inputs has it.
    """

    def __init__(self, model: nn.Module) -> None:
        self._signature = inspect.signature(model.forward)
        parameters = self._signature.parameters.values()
        self.names = [p.name for p in parameters if p.kind not in _STARRED]
        self.before = len([p for p in parameters if p.kind not in (*_STARRED, *_KEYWORD)])
        self.needed = any(p.kind in _KEYWORD for p in parameters)

    def takes(self, name: str) -> bool:
        """Whether the model can be given something by this name."""
        kinds = [parameter.kind for parameter in self._signature.parameters.values()]
        return name in self.names or inspect.Parameter.VAR_KEYWORD in kinds

    def arranged(self, inputs: Any) -> Any:
        """Inputs as a tensor or a tuple; a mapping is put in order.

        Raises:
            UserError: The model cannot be called with these names.
        """
        if not isinstance(inputs, Mapping):
            return tuple(inputs) if isinstance(inputs, list) else inputs
        try:
            bound = self._signature.bind(**inputs)
        except TypeError as error:
            names = ", ".join(map(str, inputs))
            remedy = "give batch=function that makes (inputs, targets) of a batch"
            raise UserError(f"the model cannot be called with {names}: {error}; {remedy}") from None
        bound.apply_defaults()
        values = {**bound.arguments, **inputs}
        self.names += [name for name in inputs if name not in self.names]
        asked = self.names[: 1 + max(map(self.names.index, inputs), default=-1)]
        missing = [name for name in asked if name not in values]
        if missing:
            raise UserError(f"a batch lacks {', '.join(missing)}, which one before it had; give every batch the same")
        return tuple(values[name] for name in asked)

    def followed_by(self, model: nn.Module) -> nn.Module:
        """The model, made to take by position what its `forward` takes by keyword alone, too; `freed` ends that."""
        if self.needed:
            model.register_forward_pre_hook(_Placing(self.names, self.before), prepend=True, with_kwargs=True)
        return model


class _Placing:
    """Hands positional arguments beyond the first `before` on by their names."""

    def __init__(self, names: list[str], before: int) -> None:
        self.names, self.before = names, before

    def __deepcopy__(self, memo: dict[int, Any]) -> _Placing:
        return self  # names may still be learnt

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if not self.before < len(args) <= len(self.names):
            return None
        named = dict(zip(self.names[self.before :], args[self.before :], strict=False))
        return args[: self.before], {**kwargs, **named}


def freed(model: nn.Module) -> nn.Module:
    """The model as it was before `Order.followed_by`."""
    for key in [key for key, hook in model._forward_pre_hooks.items() if isinstance(hook, _Placing)]:
        del model._forward_pre_hooks[key], model._forward_pre_hooks_with_kwargs[key]
    return model
