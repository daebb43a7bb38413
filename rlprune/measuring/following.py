"""Which batch norm reads a layer's output directly: seen by running the network."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from rlprune.scoring.evaluation import evaluating


@contextmanager
def watching_norms(model: nn.Module, layers: Collection[str]) -> Iterator[Mapping[str, str]]:
    """Fill a mapping from layer names to batch-norm names while `model` is called inside.

    Only a norm that is handed the very tensor that the layer put out counts.
    """
    found: dict[str, str] = {}
    made: dict[int, tuple[str, Any]] = {}  # holds on to the tensors: a freed one's id would be used again

    def makes(name: str) -> Callable[[nn.Module, tuple[Any, ...], Any], None]:
        def hook(_: nn.Module, __: tuple[Any, ...], output: Any) -> None:
            made[id(output)] = (name, output)

        return hook

    def normalises(name: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def hook(_: nn.Module, arguments: tuple[Any, ...]) -> None:
            if arguments and id(arguments[0]) in made:
                found[made[id(arguments[0])][0]] = name

        return hook

    def start(*_: Any) -> None:
        made.clear()

    with ExitStack() as hooks:
        hooks.callback(made.clear)
        hooks.enter_context(model.register_forward_pre_hook(start))
        for name, module in model.named_modules():
            if name in layers:
                hooks.enter_context(module.register_forward_hook(makes(name)))
            if isinstance(module, _BatchNorm) and module.track_running_stats:
                hooks.enter_context(module.register_forward_pre_hook(normalises(name)))
        yield found


def following_norms(model: nn.Module, layers: Collection[str], call: tuple[Any, ...]) -> dict[str, str]:
    """Run the network once, in eval mode, and return the norm behind each of `layers` that has one."""
    with watching_norms(model, layers) as found, evaluating(model), torch.no_grad():
        model(*call)
    return dict(found)
