"""Training state that survives a removal: optimizer moments, EMA copies, schedulers, gradient scalers.

A pruned network is a new module with new parameters. `transplant` makes the things that held the old ones hold the
new ones, cut in the same places, so that training goes on as if the removed channels had been silent all along.
"""

from __future__ import annotations

import copy
import re
from collections import defaultdict
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from rlprune.channels.copying import unwrapped
from rlprune.channels.groups import ChannelGroups
from rlprune.channels.plan import PruningPlan
from rlprune.channels.surgery import remove_channels
from rlprune.channels.units import IntArray
from rlprune.errors import UserError

Cut = dict[int, IntArray]


def transplant(state: Any, old_model: nn.Module, new_model: nn.Module, groups: ChannelGroups, plan: PruningPlan) -> Any:
    """Carry training state over from a network to its pruned copy.

    Args:
        state: a `torch.optim.Optimizer`, an EMA copy (a module with the old model's layout, one that holds such a
            module, as `AveragedModel` does, or a dict of tensors by parameter name, also with prefixes), a
            learning-rate scheduler, or a gradient scaler. What an optimizer holds besides the old model's parameters
            (the centres of a loss, a learned temperature) it keeps.
        old_model: the network before `remove_channels`.
        new_model: what `remove_channels(old_model, groups, plan)` returned.
        groups: the groups the plan is numbered in.
        plan: what was removed.

    Returns:
        An optimizer, scheduler or scaler: the same object, changed in place (schedulers and scalers hold no tensor of
        a parameter's shape, so they go on with the transplanted optimizer as they are). An EMA copy: a smaller copy;
        the argument is left alone.

    Raises:
        UserError: the state belongs to another model, or nothing is known of its kind.
    """
    plan.validate(groups)
    old_model, new_model = unwrapped(old_model), unwrapped(new_model)
    if isinstance(state, Optimizer):
        _optimizer(state, old_model, new_model, groups, plan)
        return state
    if isinstance(state, nn.Module):
        return _module(state, old_model, groups, plan)
    if isinstance(state, dict) and all(isinstance(value, Tensor) for value in state.values()):
        return _named(state, old_model, groups, plan)
    if isinstance(state, (LRScheduler, torch.amp.GradScaler, torch.optim.lr_scheduler.ReduceLROnPlateau)):
        return state
    raise UserError(
        f"cannot transplant a {type(state).__name__}; known: optimizers, EMA modules, dicts of tensors by parameter "
        "name, learning-rate schedulers and gradient scalers"
    )


def _cut(tensor: Tensor, cuts: Cut) -> Tensor:
    for dim, keep in cuts.items():
        tensor = tensor.index_select(dim, torch.from_numpy(keep).to(tensor.device))
    return tensor


def _module(state: nn.Module, old_model: nn.Module, groups: ChannelGroups, plan: PruningPlan) -> nn.Module:
    """A smaller copy of a module that is laid out as the old model, or holds one that is, as `AveragedModel`."""
    names = [name for name, _ in old_model.named_parameters()]
    inner = next((m for m in state.modules() if [name for name, _ in m.named_parameters()] == names), state)
    if inner is state:
        return remove_channels(state, groups, plan)
    copied: nn.Module = copy.deepcopy(state, {id(inner): remove_channels(inner, groups, plan)})
    return copied


def _prefixes(state: dict[str, Tensor], old_model: nn.Module) -> list[str]:
    """What stands in front of all of the old model's names in a dict, the longest first."""
    first, *others = [name for name, _ in old_model.named_parameters()]
    found = {key.removesuffix(first) for key in state if key.endswith(f".{first}")}
    return sorted((p for p in found if all(p + name in state for name in others)), key=len, reverse=True)


def _named(
    state: dict[str, Tensor], old_model: nn.Module, groups: ChannelGroups, plan: PruningPlan
) -> dict[str, Tensor]:
    cuts, known, result = groups.cuts(plan), old_model.state_dict(keep_vars=True).keys(), {}
    prefixes = "|".join([*map(re.escape, _prefixes(state, old_model)), r"((module|_orig_mod)\.)+"])
    own = {key: re.sub(f"^({prefixes})", "", key) if key not in known else key for key in state}
    if not any(name in known for name in own.values()):
        raise UserError(
            f"none of the names {list(state)[:3]} is one of the old model's ({list(known)[:3]}); name them as it does"
        )
    for key, tensor in state.items():
        name = own[key]
        if name in cuts and tuple(tensor.shape) != groups.shapes[name]:
            raise UserError(f"{key!r} has shape {tuple(tensor.shape)}, the groups expect {groups.shapes[name]}")
        result[key] = _cut(tensor, cuts[name]) if name in cuts else tensor.clone()
    return result


def _optimizer(
    optimizer: Optimizer, old_model: nn.Module, new_model: nn.Module, groups: ChannelGroups, plan: PruningPlan
) -> None:
    cuts = groups.cuts(plan)
    names = {id(p): name for name, p in old_model.named_parameters()}
    new = dict(new_model.named_parameters())
    state: defaultdict[Tensor, Any] = defaultdict(dict)

    def carry(parameter: Tensor, value: Any, places: Cut) -> Any:
        if isinstance(value, Tensor) and value.shape == parameter.shape:
            return _cut(value, places)
        if isinstance(value, Tensor) and value.numel() > 1:
            raise UserError(
                f"{type(optimizer).__name__} keeps a tensor of shape {tuple(value.shape)} for a parameter of shape "
                f"{tuple(parameter.shape)}; only state of the parameter's shape can be cut"
            )
        return value

    if not any(id(parameter) in names for group in optimizer.param_groups for parameter in group["params"]):
        raise UserError("the optimizer's parameters are not in the old model; transplant what trains that")
    replaced = []
    for group in optimizer.param_groups:
        parameters = []
        for parameter in group["params"]:
            if id(parameter) not in names:
                parameters.append(parameter)
                if parameter in optimizer.state:
                    state[parameter] = optimizer.state[parameter]
                continue
            name = names[id(parameter)]
            places = cuts.get(name, {})
            parameters.append(new[name])
            for key, value in optimizer.state.get(parameter, {}).items():
                state[new[name]][key] = carry(parameter, value, places)
            if parameter.grad is not None and new[name].grad is None:
                new[name].grad = _cut(parameter.grad, places).clone()
        replaced.append(parameters)
    for group, parameters in zip(optimizer.param_groups, replaced, strict=True):
        group["params"] = parameters
    optimizer.state = state
