"""Layers that are in no group of their own making: their weight is computed, or they never ran. Names and reasons.

A weight that is computed from parameters (`torch.nn.utils.parametrize`, the older hooks, weight standardisation in a
forward pass) mixes their channels in ways that a cut would change, so such a layer stays as it is; what it reads and
writes stays, too. Element-wise functions of parameters (a pruning mask) are no such case: `layers` cuts through them.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn.utils import parametrize

_COMMON = frozenset((type(None), bool, int, float, str, tuple, list, dict, OrderedDict, set))  # in most modules
NEVER = "it never ran in the traced call, {}: is it unused, or in a branch that these inputs do not take?"


@dataclass
class Locked:
    """A layer that is known by name only.

    Attributes:
        channels: how many output channels it has.
        reason: why it stays as it is.
        order: its place among all layers in execution order.
        weight: the parameter that stands for its weight, if one has the weight's shape.
    """

    channels: int
    reason: str
    order: int
    weight: str | None = None


def makers(model: nn.Module) -> dict[str, tuple[str, str]]:
    """Parameter or buffer name -> (layer, what computes the layer's weight from it), for layers torch parametrised."""
    found = {}
    for path, module in model.named_modules():
        if parametrize.is_parametrized(module):
            for leaf, chain in module.parametrizations.items():
                kinds = " and ".join(type(step).__name__ for step in chain)
                for name in {**dict(chain.named_parameters()), **dict(chain.named_buffers())}:
                    words = f"by the parametrization {kinds}, which parametrize.remove_parametrizations bakes in"
                    found[_join(path, f"parametrizations.{leaf}.{name}")] = (path or leaf, words)
        for hook in module._forward_pre_hooks.values():
            leaf, kind = getattr(hook, "name", None), type(hook).__name__
            if isinstance(leaf, str) and not isinstance(module._parameters.get(leaf), nn.Parameter):
                for name in (*module._parameters, *module._buffers):
                    if name.startswith(f"{leaf}_"):
                        found[_join(path, name)] = (path or leaf, f"by the hook {kind} before every call")
    return found


def graph_tensors(modules: Iterable[nn.Module]) -> dict[int, Tensor]:
    """A `deepcopy` memo for modules whose hooks left computed weights with a graph behind, which torch cannot copy."""
    values = [value for module in modules for value in vars(module).values() if type(value) not in _COMMON]
    return {id(t): t.detach().clone() for t in values if isinstance(t, Tensor) and not t.is_leaf}


def owner(parameter: str) -> str:
    """The layer that a parameter belongs to: its module if it is called like a weight, else itself."""
    path, _, leaf = parameter.rpartition(".")
    return path if path and leaf in ("weight", "weight_orig", "weight_v") else parameter


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
