"""Copies of models: with the model's modes, bound to themselves, and checked.

`copy.deepcopy` alone is not faithful. It loses the modes of traced graph modules, and it shares functions: a `forward`
or a hook that was set on the object and closes over it goes on running the original. So functions are bound anew.
"""

from __future__ import annotations

import copy
import copyreg
import functools
import types
import weakref
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.parameter import UninitializedParameter

from rlprune.channels.computed import graph_tensors
from rlprune.errors import UserError
from rlprune.seeding import torch_generator


def unwrapped(model: nn.Module) -> nn.Module:
    """The network inside wrappers for data parallel training and compilation.

    Raises:
        UserError: the model is scripted, sharded, quantized, not initialised, or none.
    """
    if not isinstance(model, nn.Module):
        raise UserError(f"model is a {type(model).__name__}; it must be a torch.nn.Module")
    if any("FullySharded" in cls.__name__ or cls.__name__ == "FSDPModule" for cls in type(model).__mro__):
        raise UserError(
            "sharded models (FSDP) cannot be pruned: no process holds all weights; prune first, and shard what is left"
        )
    while True:
        if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            model = model.module
        elif type(model).__name__ == "OptimizedModule" and isinstance(model._modules.get("_orig_mod"), nn.Module):
            model = model.get_submodule("_orig_mod")
        else:
            break
    for path, module in modules_in(model).items():
        kind = _compiled(module)
        if kind is not None:
            what = f"its part {path!r} is" if path else "it is"
            raise UserError(f"{kind[0]} cannot be pruned, and {what} one; give the plain module, before {kind[1]}")
        if any(isinstance(parameter, UninitializedParameter) for parameter in module._parameters.values()):
            raise UserError(
                f"part {path!r} is a {type(module).__name__}, whose weights have no shape before the first "
                "call; call the model on an example first"
            )
        if ".quantized" in type(module).__module__:
            raise UserError(
                f"part {path!r} is a quantized {type(module).__name__}, whose weights are packed; prune the network "
                "first, and quantize what is left"
            )
    return model


def _compiled(module: nn.Module) -> tuple[str, str] | None:
    """What a module that is code no more is called, and what made it; None for any other."""
    own = vars(module)
    if isinstance(module, torch.jit.ScriptModule):
        return "scripted models", "torch.jit"
    if isinstance(module, fx.GraphModule) and ("eval" in own or "inline_constraints" in own.get("meta", ())):
        return "exported programs", "torch.export"
    return None


def modules_in(model: nn.Module) -> dict[str, nn.Module]:
    """What `named_modules` gives, without its nested generators."""
    found: dict[str, nn.Module] = {}
    seen: set[int] = set()
    left = [("", model)]
    while left:
        path, module = left.pop()
        if id(module) not in seen:
            seen.add(id(module))
            found[path] = module
            parts = [(f"{path}.{n}" if path else n, part) for n, part in module._modules.items() if part is not None]
            left += reversed(parts)
    return found


def tensors_of(modules: dict[str, nn.Module]) -> dict[str, Tensor]:
    """Parameters, then buffers, of a model's `modules_in` by name; a tied one under its first name only."""
    found: dict[int, tuple[str, Tensor]] = {}
    for table in ("_parameters", "_buffers"):
        for path, module in modules.items():
            for name, tensor in getattr(module, table).items():
                if tensor is not None:
                    found.setdefault(id(tensor), (f"{path}.{name}" if path else name, tensor))
    return dict(found.values())


def duplicate(model: nn.Module, memo: dict[int, Any] | None = None) -> nn.Module:
    """A deep copy in the model's modes, whose functions are bound to it; `memo` is deepcopy's.

    Raises:
        UserError: the model cannot be copied.
    """
    modules = list(modules_in(model).values())
    memo = {**graph_tensors(modules), **(memo or {})}
    kinds = {kind for kind in set(map(type, modules)) if _by_state(kind)}
    plain = [module for module in modules if type(module) in kinds and id(module) not in memo]
    try:
        for module in plain:  # whatever refers to one then finds its copy
            memo[id(module)] = object.__new__(type(module))
        for module in modules:
            if isinstance(module, fx.GraphModule):
                _copy_graph_module(module, memo)
        for module in reversed(plain):  # parts before the whole
            memo[id(module)].__setstate__(_each_copied(vars(module), memo))
        copied: nn.Module = copy.deepcopy(model, memo)
    except (RuntimeError, TypeError) as error:
        text = " ".join(str(error).split())[:160]
        raise UserError(f"the model cannot be deep-copied ({text}); keep no graph tensors or handles in it") from error
    own = [memo[id(m)] for m in modules] if len(plain) == len(modules) else modules_in(copied).values()
    for before, after in zip(modules, own, strict=False):
        if after.training != before.training:
            after.training = before.training
        tables: tuple[Any, ...] = (vars(after), after._forward_hooks, after._forward_pre_hooks, after._backward_hooks)
        for table in tables:
            for key, value in table.items():
                kind = type(value)
                holds = kind in _CONTAINERS and value and not _BOUND.isdisjoint(map(type, _parts(value)))
                if holds or kind is types.MethodType or kind in _BOUND:
                    table[key] = _bound_anew(value, memo)
    return copied


_ATOMS = frozenset((type(None), bool, int, float, str))
_TABLES = frozenset((dict, OrderedDict, set))
_CONTAINERS = frozenset((list, tuple, dict))
_BOUND = frozenset((types.FunctionType, functools.partial, weakref.ref, weakref.WeakMethod))
_AS_THEY_ARE = _ATOMS | _BOUND  # functions and references are bound to the copy later


def _by_state(kind: type) -> bool:
    """Whether modules of this kind are copied as `nn.Module` says: their attributes, and nothing else."""
    plain = all(getattr(kind, name, None) is getattr(nn.Module, name, None) for name in _PROTOCOL)
    slots = any(getattr(base, "__slots__", ()) for base in kind.__mro__)
    return plain and not slots and kind not in copyreg.dispatch_table


_PROTOCOL = ("__new__", "__deepcopy__", "__reduce_ex__", "__reduce__", "__getstate__", "__getnewargs__",
             "__getnewargs_ex__")  # fmt: skip


def _copied(value: Any, memo: dict[int, Any]) -> Any:
    """A deep copy of what a module holds and `memo` does not."""
    kind = type(value)
    if kind is tuple and _ATOMS.issuperset(map(type, value)):
        copied = value
    elif kind is Tensor and _is_plain(value, memo):
        copied = memo[id(value)] = value.clone()
        memo["torch"][value.untyped_storage()._cdata] = copied.untyped_storage()  # type: ignore[index]  # as deepcopy does
    elif kind is dict and all(type(key) is str for key in value):
        copied = _each_copied(value, memo)
    else:
        copied = copy.deepcopy(value, memo)
    return copied


def _each_copied(table: dict[str, Any], memo: dict[int, Any]) -> dict[str, Any]:
    """The same names with copies of what they stand for: mostly numbers, empty hook tables, tensors, other modules."""
    copied = memo[id(table)] = {}
    for name, value in table.items():
        kind = type(value)
        if kind in _AS_THEY_ARE:
            copied[name] = value
        elif id(value) in memo:
            copied[name] = memo[id(value)]
        elif kind in _TABLES and not value:
            copied[name] = memo[id(value)] = kind()  # which others may share
        else:
            copied[name] = _copied(value, memo)
    return copied


def _is_plain(tensor: Tensor, memo: dict[int, Any]) -> bool:
    """Whether a tensor is numbers in memory that was not copied yet, and nothing else."""
    storages = memo.setdefault("torch", {})  # type: ignore[call-overload]
    return (
        not tensor.requires_grad
        and tensor.layout is torch.strided
        and tensor.device.type in ("cpu", "cuda")
        and tensor.is_contiguous()
        and (storage := tensor.untyped_storage()).nbytes() == tensor.nbytes
        and storage._cdata not in storages
        and not (tensor.__dict__ or tensor.is_quantized or tensor.is_conj() or tensor.is_neg())
        and tensor.grad is None
    )


def _copy_graph_module(module: fx.GraphModule, memo: dict[int, Any]) -> None:
    """Its own way of copying forgets modes and what a subclass keeps."""
    if id(module) in memo:
        return
    copied: fx.GraphModule = type(module).__new__(type(module))
    memo[id(module)] = copied
    copied.__dict__.update(copy.deepcopy(vars(module), memo))
    copied.graph = copied.graph  # compiles it, and makes it the graph's owner


def _bound_anew(value: Any, memo: dict[int, Any], depth: int = 0) -> Any:
    """A function with what it closes over replaced by the copies, where these are parts of the copied model."""
    if depth > 5:
        return value
    if type(value) in _CONTAINERS:
        return _each_anew(value, lambda part: _bound_anew(part, memo, depth + 1))
    if isinstance(value, types.MethodType):
        function, owner = _bound_anew(value.__func__, memo, depth + 1), memo.get(id(value.__self__), value.__self__)
        unchanged = function is value.__func__ and owner is value.__self__
        return value if unchanged else types.MethodType(function, owner)
    part = _part_anew(value, memo)
    if part is not value:
        return part
    if isinstance(value, functools.partial):
        function, *args = (_bound_anew(part, memo, depth + 1) for part in (value.func, *value.args))
        words = {key: _bound_anew(part, memo, depth + 1) for key, part in value.keywords.items()}
        return functools.partial(function, *args, **words)
    if not isinstance(value, types.FunctionType):
        return value
    cells, changed = [], False
    for cell in value.__closure__ or ():
        try:
            content = cell.cell_contents
        except ValueError:  # not filled yet
            cells.append(cell)
            continue
        new = _bound_anew(content, memo, depth + 1)
        changed |= new is not content
        cells.append(cell if new is content else types.CellType(new))
    defaults = tuple(_bound_anew(part, memo, depth + 1) for part in value.__defaults__ or ())
    changed |= any(a is not b for a, b in zip(defaults, value.__defaults__ or (), strict=True))
    names = {name: value.__globals__[name] for name in value.__code__.co_names if name in value.__globals__}
    parts = {name: new for name, old in names.items() if (new := _part_anew(old, memo)) is not old}
    if not changed and not parts:
        return value
    scope = {**value.__globals__, **parts} if parts else value.__globals__
    result = types.FunctionType(value.__code__, scope, value.__name__, defaults or None, tuple(cells))
    result.__dict__.update({key: part for key, part in vars(value).items() if key != "__wrapped__"})
    result.__kwdefaults__ = value.__kwdefaults__
    return result


def _parts(value: Any) -> list[Any]:
    """What a list or dict holds."""
    return list(value.values() if isinstance(value, dict) else value)


def _each_anew(value: Any, anew: Callable[[Any], Any]) -> Any:
    """A list or dict with each part replaced; the same one if none is."""
    old = _parts(value)
    new = [anew(part) for part in old]
    if all(a is b for a, b in zip(old, new, strict=True)):
        return value
    return dict(zip(value, new, strict=True)) if isinstance(value, dict) else type(value)(new)


def _part_anew(value: Any, memo: dict[int, Any]) -> Any:
    """The copy of a part of the model, of a method of one, or of a list or dict of such; anything else as it is."""
    if type(value) in _CONTAINERS:
        return _each_anew(value, lambda part: _part_anew(part, memo))
    if isinstance(value, (nn.Module, Tensor)):
        return memo.get(id(value), value)
    if isinstance(value, weakref.ref):
        target = value()
        copied = _part_anew(target, memo)
        return value if copied is target else type(value)(copied)
    if isinstance(value, types.MethodType) and id(value.__self__) in memo:
        return types.MethodType(value.__func__, memo[id(value.__self__)])
    return value


def shaken(model: nn.Module) -> nn.Module:
    """A copy in evaluation mode with random normalisation statistics, so that fresh initial values hide nothing.

    Weights are shared with the model; vectors and all-zero parameters are changed in the copy.
    """
    return duplicate(model, shaken_tensors(model)).eval()


def shaken_tensors(model: nn.Module) -> dict[int, Any]:
    """What makes a copy of a model a shaken one: deepcopy's memo, in which its parameters and statistics are."""
    memo: dict[int, Any] = {}
    generator = torch_generator(0, "check", "statistics")
    with torch.no_grad():
        for name, tensor in tensors_of(modules_in(model)).items():
            leaf, parameter = name.rpartition(".")[2], isinstance(tensor, nn.Parameter)
            if parameter and tensor.ndim > 1 and _any(tensor):
                memo[id(tensor)] = tensor
                continue
            if not tensor.is_floating_point() or tensor.numel() == 0:
                continue
            if not parameter and leaf not in ("weight", "bias", "running_mean", "running_var"):
                continue
            copied = _copied(tensor, memo)
            noise = torch.rand(tensor.shape, generator=generator).to(tensor)
            if leaf == "running_var":
                copied.mul_(0.5 + noise)
            elif float(tensor.abs().max()) < 0.02:  # also what starts next to zero, as a layer's scale does
                copied.add_((noise - 0.5) * 0.2)
            else:
                copied.mul_(0.75 + 0.5 * noise)
    return memo


def _any(tensor: Tensor) -> bool:
    """Whether a tensor is not all zeros; mostly its first row tells."""
    return bool(tensor[:1].any()) or bool(tensor.any())
