"""Widths in plain attributes of modules: which numbers could follow a removal, and how.

Code that splits, reshapes or groups by a number that it keeps (`self.c`, `num_heads`, `split_sizes`) does not see that
a tensor has become smaller. Such a number equals the size of a tensor that is cut, or a part of it; the self-check
decides whether it follows.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import torch
from torch import nn

from rlprune.channels.copying import modules_in
from rlprune.channels.groups import ChannelGroups
from rlprune.channels.units import Attribute

Reads = dict[tuple[int, str], None]  # (id of a module, name of an attribute that holds numbers), by their last read
Terms = tuple[tuple[str, int], ...]

_WIDTH = re.compile(
    r"(^|_)(ch|chs|chans?|channels?|in_?planes|planes|filters?|features|dims?|width|groups|c|c1|c2)_?(in|out)?$"
)
_NO_WIDTH = re.compile(
    r"stride|kernel|padding|dilation|depth|stage|level|layers|class|image|img|resolution|reduction"
    r"|(^|_)(index|idx)$|steps|window|patch|grid|shift|partition|^save$|^nc$|^[ifp]$"
)
_HEADS = re.compile(r"(^|_)n?_?heads?$")
_HEAD_WIDTH = re.compile(r"head_?(dim|size|width|channels|features)|(dim|size|channels)_(per_)?head$|^d_[kqv]$")
_INNER = re.compile(r"attn|attention|inner|hidden|mid|expan|all_head")
_BUILT_IN = ("num_groups", "input_size", "groups", "unflattened_size")  # those of torch's own modules that may follow
_OWN = ("in_channels", "out_channels", "in_features", "out_features", "num_features", "num_channels", "num_parameters")
_MOST = 16  # numbers in a list
_LISTS = (list, tuple, torch.Size)
_NUMBERS = (int, *_LISTS)
MODE = "training"


@contextmanager
def watched_attributes(reads: Reads, head_counts: set[int]) -> Iterator[None]:
    """Note which plain numbers and modes of modules are read; what is called like a number of heads apart, too."""

    def read(module: nn.Module, name: str) -> Any:
        value = object.__getattribute__(module, name)
        if type(value) in _NUMBERS or name == MODE:
            reads.pop((id(module), name), None)
            reads[id(module), name] = None
            if type(value) is int and value > 1 and _HEADS.search(name):
                head_counts.add(value)
        return value

    nn.Module.__getattribute__ = read  # type: ignore[assignment, method-assign]
    try:
        yield
    finally:
        del nn.Module.__getattribute__


@dataclass(frozen=True)
class Choice:
    """A number that may follow, and the ways in which it could, the likeliest first.

    Numbers of one name in modules of one `kind` are likely to follow alike.
    """

    module: str
    name: str
    place: int | None
    value: int
    options: tuple[Terms, ...]
    kind: str = ""
    outer: bool = False

    @property
    def first(self) -> int:
        """The option to begin with: heads go, their width stays, and so does what equals a width outside by chance.

        That is what is one of several, or called a size, such as the `min_size` of an image.
        """
        by_chance = self.outer and (len(self.options) > 1 or "size" in self.name)
        return len(self.options) if by_chance or _HEAD_WIDTH.search(self.name) else 0

    def attribute(self, option: int) -> Attribute | None:
        """The attribute that follows in one of the ways; beyond the last one it stays as it is."""
        if option >= len(self.options):
            return None
        return Attribute(self.module, self.name, self.place, self.value, self.options[option])

    @property
    def says_width(self) -> bool:
        """Whether it is called like a width, or like a number of heads."""
        return _WIDTH.search(self.name) is not None or _HEADS.search(self.name) is not None

    @property
    def groups(self) -> set[str]:
        """The groups that it may follow."""
        return {name for terms in self.options for name, _ in terms}


@dataclass(frozen=True)
class _Width:
    """One dimension of a tensor that shrinks."""

    tensor: str
    role: str
    size: int
    copies: Mapping[str, int]

    def terms(self, value: int) -> Terms | None:
        """What a number loses with each unit, if it is this width or goes with it in proportion."""
        scaled = {name: value * count for name, count in self.copies.items()}
        if value > self.size or any(amount % self.size for amount in scaled.values()):
            return None
        return tuple(sorted((name, amount // self.size) for name, amount in scaled.items()))


def choices(model: nn.Module, groups: ChannelGroups, reads: set[tuple[str, str]]) -> list[Choice]:
    """The numbers that may follow: those that `reads` (path, name) says the forward pass uses, and well-known names."""
    scopes = _scopes(groups)
    cut = {width.tensor.rpartition(".")[0] for widths in scopes.values() for width in widths}
    found = []
    names: dict[str, set[str]] = defaultdict(set)
    for path, name in reads:
        names[path].add(name)
    for path, module in modules_in(model).items():
        settings = _settings(module)
        tensors = () if path in cut else (*module._parameters.values(), *module._buffers.values())
        if settings is None and any(tensor is not None for tensor in tensors):
            continue  # a layer of torch's whose own width stays
        own = {size for tensor in tensors if tensor is not None for size in tensor.shape}  # of what stays
        for name, value in {**_of_class(type(module), names[path] - vars(module).keys()), **vars(module)}.items():
            used = (path, name) in reads
            if ((settings is None or name in settings) and name not in _BUILT_IN) or (
                path in cut and (name in _OWN or (name == "groups" and settings is None))
            ):
                continue
            if (used and not _NO_WIDTH.search(name)) or _WIDTH.search(name):
                for place, number in _numbers(value) if used or type(value) is int else ():
                    if number < 2 or number in own:
                        continue
                    options, outer = _nearest(scopes, module, path, name, number, used)
                    if options:
                        found.append(Choice(path, name, place, number, options, type(module).__qualname__, outer))
    return found


def _settings(module: nn.Module) -> set[str] | None:
    """Names of what torch's own classes keep for themselves; None if the module is of such a class: all of it."""
    if type(module).__module__.startswith("torch.nn."):
        return None
    ours = [cls for cls in type(module).__mro__ if cls.__module__.startswith("torch.nn.")]
    return {name for cls in ours for name in getattr(cls, "__constants__", ())}


def _of_class(kind: type, names: set[str]) -> dict[str, Any]:
    """What a module reads from its class; a number that follows is the module's own from then on."""
    found = {name: vars(cls)[name] for name in names for cls in reversed(kind.__mro__) if name in vars(cls)}
    return {name: value for name, value in found.items() if type(value) in _NUMBERS}


def _numbers(value: Any) -> list[tuple[int | None, int]]:
    """The numbers in an attribute, with their places if it holds several."""
    if type(value) is int:
        return [(None, value)]
    if type(value) in _LISTS and len(value) <= _MOST and all(type(number) is int for number in value):
        return [] if sorted(value) == list(range(len(value))) else list(enumerate(value))  # an order of axes
    return []


def kept_inside(model: nn.Module) -> dict[int, list[str]]:
    """Numbers in what modules keep (a configuration, a table of lists), where none follows -> what they are called."""
    found: dict[int, list[str]] = defaultdict(list)
    seen: set[int] = set()

    def look(path: str, value: Any, depth: int) -> None:
        if id(value) not in seen:
            seen.add(id(value))
            for key, part in _entries(value):
                if type(part) is int and part > 1:
                    found[part].append(f"{path}.{key} = {part}")
                elif depth:
                    look(f"{path}.{key}", part, depth - 1)

    for path, module in model.named_modules():
        for name, value in vars(module).items() if _settings(module) is not None else ():
            if not name.startswith("_"):
                look(f"{path}.{name}" if path else name, value, 2)
    return found


def _entries(value: Any) -> list[tuple[Any, Any]]:
    """What a table, list or plain object holds, by name or place."""
    if isinstance(value, dict):
        return [*value.items()]
    if type(value) in _LISTS:
        return [*enumerate(value)]
    if is_dataclass(value):
        return [(part.name, getattr(value, part.name, None)) for part in fields(value)]
    plain = hasattr(value, "__dict__") and not isinstance(value, (type, nn.Module, torch.Tensor, Callable))  # type: ignore[arg-type]
    return [*vars(value).items()] if plain else []


def _scopes(groups: ChannelGroups) -> dict[str, list[_Width]]:
    """Path of a module -> the widths below it."""
    copies: dict[tuple[str, int], dict[str, int]] = defaultdict(dict)
    roles: dict[tuple[str, int], str] = {}
    for group in groups.prunable:
        for slot in group.slots:
            here = copies[slot.tensor, slot.dim]
            here[group.name] = here.get(group.name, 0) + slot.index.shape[1]
            roles[slot.tensor, slot.dim] = slot.role
    scopes: dict[str, list[_Width]] = defaultdict(list)
    order = {layer.weight: layer.order for layer in groups.layers.values()}
    for tensor, dim in sorted(copies, key=lambda key: order.get(key[0], len(order))):
        width = _Width(tensor, roles[tensor, dim], groups.shapes[tensor][dim], copies[tensor, dim])
        path = tensor
        while path:
            path = path.rpartition(".")[0]
            scopes[path].append(width)
    return scopes


def _nearest(
    scopes: Mapping[str, list[_Width]], module: nn.Module, path: str, name: str, value: int, used: bool
) -> tuple[tuple[Terms, ...], bool]:
    """Ways in which a number could follow the widths below its module, else (True) those below the module around it.

    What is a size of the module's own that stays does not follow the others'.
    """
    scope = path
    while True:
        options = _options(scopes.get(scope, []), path, name, value, used)
        if options or not scope or not used:
            return options, scope != path
        if scope == path and any(value in t.shape for t in (*module.parameters(), *module.buffers())):
            return options, False
        scope = scope.rpartition(".")[0]


def _options(widths: list[_Width], path: str, name: str, value: int, used: bool) -> tuple[Terms, ...]:
    """Ways in which a number could follow; of one that the forward pass does not use only the plain and named one."""
    side = (
        "in"
        if re.search(r"(^|_)in(_|$|put|planes)", name)
        else "out"
        if re.search(r"(^|_)out(_|$|put|planes)", name)
        else ""
    )
    ranked = []
    for place, width in enumerate(widths):
        terms = width.terms(value)
        if terms is None or (not used and (width.size != value or width.role not in ("in", "out"))):
            continue
        own = width.tensor.rpartition(".")[0] == path
        inner = bool(_INNER.search(name) or _HEADS.search(name)) and all(
            group.startswith(f"{path}.") for group in width.copies
        )
        made = any(group.startswith(f"{path}.") for group in width.copies)  # rather than what comes from outside
        late = -place if side == "out" else place
        ranked.append(((side not in ("", width.role), not inner, width.size != value, not own, not made, late), terms))
    if side and not used:
        ranked = [entry for entry in ranked if not entry[0][0]]
    found = list(dict.fromkeys(terms for _, terms in sorted(ranked)))
    return tuple(found[:4]) if used or side or len(found) == 1 else ()
