"""Taking channels out of a model, or silencing them at full size. The argument is never changed."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from rlprune.channels.copying import duplicate, modules_in, tensors_of, unwrapped
from rlprune.channels.groups import ChannelGroups
from rlprune.channels.plan import PruningPlan
from rlprune.channels.units import IntArray, Layer
from rlprune.errors import UserError

Changes = dict[str, dict[str, int | dict[int, int]]]  # see `ChannelGroups.attributes_after`
Modules = dict[str, nn.Module]  # by path, as `modules_in` gives them
PART = 2**20  # numbers that are cut at a time
CHANGED = "_changed_by_pruning"  # attribute of a pruned network: module path -> names of the attributes that changed


def remove_channels(model: nn.Module, groups: ChannelGroups, plan: PruningPlan) -> nn.Module:
    """A smaller deep copy of a model.

    Parameters keep dtype, device, `requires_grad` and memory format; module attributes (`out_channels`,
    `num_features`, `groups` ...) follow; gradients are not copied. Tied parameters stay tied.

    Args:
        model: the model the groups belong to; left as it is.
        groups: from `trace_channels`, or from `ChannelGroups.after` for a network that was pruned before.
        plan: units to remove, numbered in `groups`.

    Raises:
        UserError: the plan does not fit the groups (naming the group), or the model does not.
    """
    return removed_copy(model, groups, plan)


def removed_copy(model: nn.Module, groups: ChannelGroups, plan: PruningPlan, share: bool = False) -> nn.Module:
    """What `remove_channels` does; with `share`, for a look, parameters that stay as they are are not copied."""
    if not isinstance(plan, PruningPlan):
        raise UserError(f"plan is a {type(plan).__name__}; give PruningPlan(...), of group names and channels")
    plan.validate(groups)
    model = unwrapped(model)
    cuts = groups.cuts(plan)
    modules = modules_in(model)
    tensors = _tensors(modules, groups)
    memo = _shared(tensors) if share else {}
    resized: dict[int, str] = {}
    with torch.inference_mode(False), torch.no_grad():
        for name, cut in cuts.items():
            memo[id(tensors[name])] = _cut(tensors[name], cut)
            resized[id(tensors[name])] = name
    pruned = _copied(model, memo, tensors)
    smaller = modules_in(pruned)
    _check_replaced(smaller, {name: memo[id(tensors[name])] for name in cuts})
    _update_attributes(modules, smaller, resized, groups)
    set_numbers(pruned, groups.attributes_after(plan))
    if not share:
        _note_changes(modules, smaller)
    return pruned


def mask_channels(model: nn.Module, groups: ChannelGroups, plan: PruningPlan) -> nn.Module:
    """A deep copy at full size that computes the same function as the removed network.

    The removed units' filters and biases, the weights and biases of their normalisation, and the input channels of
    their consumers are zero; statistics are left alone.

    Raises:
        UserError: the plan does not fit the groups (naming the group), or the model does not.
    """
    return masked_copy(model, groups, plan)


def masked_copy(
    model: nn.Module, groups: ChannelGroups, plan: PruningPlan, given: Mapping[int, Any] = MappingProxyType({})
) -> nn.Module:
    """What `mask_channels` does; `given` is deepcopy's memo: what parameters and buffers are in the copy, unmasked."""
    plan.validate(groups)
    model = unwrapped(model)
    tensors = _tensors(modules_in(model), groups)
    memo = dict(given)
    own = {id(t) for t in tensors.values() if memo.get(id(t), t) is not t}
    with torch.inference_mode(False), torch.no_grad():
        for name, units in plan.removed.items():
            gone = np.asarray(units, dtype=np.int64)
            for slot in groups[name].slots:
                leaf = slot.tensor.rpartition(".")[2]
                if slot.role not in ("in", "out") and (slot.role != "norm" or leaf not in ("weight", "bias")):
                    continue
                tensor = tensors[slot.tensor]
                if id(tensor) not in own:
                    own.add(id(tensor))
                    memo[id(tensor)] = _cut(tensor, {}) if tensor.is_inference() else copy.deepcopy(tensor)
                positions = torch.from_numpy(slot.index[gone].ravel()).to(tensor.device)
                memo[id(tensor)].index_fill_(slot.dim, positions, 0)
    masked = _copied(model, memo, tensors)
    _check_replaced(modules_in(masked), {name: memo[id(t)] for name, t in tensors.items() if id(t) in own})
    return masked


def _check_replaced(copied: Modules, expected: dict[str, Any]) -> None:
    """A model with a copying method of its own (a scripted one, say) may have kept its old weights."""
    tensors = tensors_of(copied)
    for name, tensor in expected.items():
        if tensors.get(name) is not tensor:
            raise UserError(
                f"the model's deep copy does not take the new {name!r}; scripted models and modules with a "
                "__deepcopy__ of their own cannot be pruned, give the plain module"
            )


def _tensors(modules: Modules, groups: ChannelGroups) -> dict[str, Tensor]:
    """A model's parameters and buffers; those that the groups name have the shapes that the groups know."""
    tensors = tensors_of(modules)
    for name, shape in groups.shapes.items():
        if name not in tensors:
            raise UserError(f"the model has no tensor {name!r}; these groups were traced from another model")
        if tuple(tensors[name].shape) != shape:
            raise UserError(
                f"tensor {name!r} has shape {tuple(tensors[name].shape)}, the groups expect {shape}; "
                "use groups.after(plan) for a pruned network"
            )
    return tensors


def _shared(tensors: Mapping[str, Tensor]) -> dict[int, Any]:
    """What tells a copy to take the parameters as they are."""
    return {id(tensor): tensor for tensor in tensors.values() if isinstance(tensor, nn.Parameter)}


def _copied(model: nn.Module, memo: dict[int, Any], tensors: Mapping[str, Tensor]) -> nn.Module:
    with torch.inference_mode(False):  # else the copy could not be trained
        with torch.no_grad():
            for tensor in tensors.values():
                if tensor.is_inference() and id(tensor) not in memo:
                    memo[id(tensor)] = _cut(tensor, {})
        return duplicate(model, memo)


def _cut(tensor: Tensor, cuts: Mapping[int, IntArray]) -> Tensor:
    smaller = tensor.clone() if tensor.is_inference() else tensor.detach()
    indices = [(dim, torch.from_numpy(keep).to(tensor.device)) for dim, keep in cuts.items()]
    if len(indices) == 2 and tensor.numel() > PART:
        smaller = _selected(smaller, *sorted(indices, key=lambda index: index[0]))
    else:
        for dim, keep in sorted(indices, key=lambda index: len(index[1]) / tensor.shape[index[0]]):
            smaller = smaller.index_select(dim, keep)
    smaller = smaller.contiguous(memory_format=memory_format(tensor))
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(smaller, requires_grad=tensor.requires_grad)
    return smaller


def _selected(tensor: Tensor, first: tuple[int, Tensor], second: tuple[int, Tensor]) -> Tensor:
    """Positions along two axes, without so large a tensor in between as those along one of them make."""
    (axis, rows), (other, columns) = first, second
    shape, step = list(tensor.shape), max(1, PART * tensor.shape[axis] // tensor.numel())
    shape[axis], shape[other] = len(rows), len(columns)
    result = tensor.new_empty(shape)
    for begin in range(0, len(rows), step):
        part = rows[begin : begin + step]
        result.narrow(axis, begin, len(part)).copy_(tensor.index_select(axis, part).index_select(other, columns))
    return result


def memory_format(tensor: Tensor) -> torch.memory_format:
    """The order in which a tensor's elements lie, among those that operators keep."""
    if not tensor.is_contiguous():
        if tensor.ndim == 4 and tensor.is_contiguous(memory_format=torch.channels_last):
            return torch.channels_last
        if tensor.ndim == 5 and tensor.is_contiguous(memory_format=torch.channels_last_3d):
            return torch.channels_last_3d
    return torch.contiguous_format


def _update_attributes(modules: Modules, pruned: Modules, resized: dict[int, str], groups: ChannelGroups) -> None:
    layers = {layer.weight: layer for layer in groups.layers.values()}
    after: Any
    for before, after in zip(modules.values(), pruned.values(), strict=True):
        own = {**before._parameters, **before._buffers}
        if "parametrizations" in before._modules and parametrize.is_parametrized(before, "weight"):
            own["weight"] = getattr(before.parametrizations.weight, "original", None)  # type: ignore[union-attr]
        names = {key: resized[id(t)] for key, t in own.items() if t is not None and id(t) in resized}
        if not names:
            continue
        weight = getattr(after, "weight", None)
        layer = layers.get(names.get("weight", names.get("weight_orig", "")))
        if layer is not None and isinstance(weight, Tensor):
            _resize_layer(after, layer.resized(tuple(weight.shape)))
        elif isinstance(weight, Tensor):
            _resize_other(after, tuple(weight.shape))
        elif "running_mean" in names and hasattr(after, "num_features"):
            after.num_features = len(after.get_buffer("running_mean"))


def set_numbers(
    pruned: nn.Module, changes: Changes, original: nn.Module | None = None, former: Changes | None = None
) -> None:
    """Set the plain numbers of modules that follow, after those that did formerly are as in the original again."""
    for path, numbers in (former or {}).items():
        for name in numbers:
            setattr(pruned.get_submodule(path), name, getattr(original.get_submodule(path), name))  # type: ignore[union-attr]
    for path, numbers in changes.items():
        module = pruned.get_submodule(path)
        for name, new in numbers.items():
            if isinstance(new, dict):
                values = list(getattr(module, name))
                for place, value in new.items():
                    values[place] = value
                setattr(module, name, type(getattr(module, name))(values))
            else:
                setattr(module, name, new)


def _plain(value: Any) -> bool:
    """Whether an attribute holds a number, or several."""
    return type(value) is int or (isinstance(value, (tuple, list)) and all(type(number) is int for number in value))


def _note_changes(modules: Modules, pruned: Modules) -> None:
    """Remember in the pruned network which attributes removals changed; caches that fill later are none of them."""
    changed = {path: set(names) for path, names in getattr(modules[""], CHANGED, {}).items()}
    for (path, before), after in zip(modules.items(), pruned.values(), strict=True):
        own, kind = vars(before), type(before)
        names = set()
        for key, new in vars(after).items():
            old = own[key] if key in own else getattr(kind, key, None)
            if new is not old and _plain(new) and _plain(old) and old != new:
                names.add(key)
        if names:
            changed.setdefault(path, set()).update(names)
    if changed:
        vars(pruned[""])[CHANGED] = {path: sorted(names) for path, names in changed.items()}


def _resize_layer(module: Any, layer: Layer) -> None:
    first, second = layer.shape[:2]
    if layer.kind == "linear" and hasattr(module, "in_features"):
        module.in_features, module.out_features = second, first
    elif hasattr(module, "in_channels") and hasattr(module, "out_channels"):
        if hasattr(module, "groups"):
            module.groups = layer.groups
        if getattr(module, "transposed", layer.kind == "conv_transpose"):
            module.in_channels, module.out_channels = first, second * layer.groups
        else:
            module.in_channels, module.out_channels = second * layer.groups, first


def _resize_other(module: Any, shape: tuple[int, ...]) -> None:
    if hasattr(module, "num_features"):
        module.num_features = shape[0]
    elif hasattr(module, "num_channels"):
        module.num_channels = shape[0]
    elif hasattr(module, "embedding_dim"):
        module.embedding_dim = shape[1]
    elif hasattr(module, "num_parameters"):
        module.num_parameters = shape[0]
    elif hasattr(module, "normalized_shape"):
        module.normalized_shape = shape
