"""From the labels of a trace to channel groups: collect what goes with each unit, group units of the same make."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from dataclasses import replace

import numpy as np
from torch import nn

from rlprune.channels.computed import owner
from rlprune.channels.groups import ChannelGroups
from rlprune.channels.trace import APPROXIMATE, Trace
from rlprune.channels.units import KINDS, ChannelGroup, IntArray, Layer, Slot


def assemble(trace: Trace, model: nn.Module) -> ChannelGroups:
    """The channel groups that a finished trace describes."""
    layers, fixed_macs, odd = _layers(trace)
    for weight, reason in odd.items():
        for (name, _), labels in trace.sites.items():
            if name == weight:
                trace.book.lock(labels, trace.book.reason(reason))
    parent, locked, marks = trace.book.classes()
    sites = list(trace.sites)
    root = np.concatenate([parent[trace.sites[key]] for key in sites] or [np.zeros(0, np.int64)])
    site = np.repeat(np.arange(len(sites)), [len(trace.sites[key]) for key in sites])
    position = np.concatenate([np.arange(len(trace.sites[key])) for key in sites] or [np.zeros(0, np.int64)])
    order = np.lexsort((position, site, root))
    root, site, position = root[order], site[order], position[order]

    filters = _filter_macs(trace, parent)
    found = []
    for units, members, places in _same_make(root, site, position, locked, filters):
        code = locked.get(int(units[0]))
        text = None if code is None else trace.book.reason_text(code)
        if text is None and len(units) == 1:
            text = "all its channels are tied together, so that none can go alone"
        slots = []
        for index in np.unique(members).tolist():
            tensor, dim = sites[index]
            slots.append(Slot(tensor, dim, trace.roles[tensor, dim], places[:, members == index]))
        found.append((slots, text, units))
    return _named(found, trace, model, layers, fixed_macs, marks, filters)


def _filter_macs(trace: Trace, parent: IntArray) -> dict[int, int]:
    """Class -> MACs of the fixed filters that its labels meet."""
    total: Counter[int] = Counter()
    for labels, each in trace.filtered:
        for unit, count in zip(*np.unique(parent[labels[labels > 0]], return_counts=True), strict=True):
            total[int(unit)] += each * int(count)
    return dict(total)


def _same_make(
    root: IntArray, site: IntArray, position: IntArray, locked: dict[int, int], filters: dict[int, int]
) -> list[tuple[IntArray, IntArray, IntArray]]:
    """Classes of labels that live in the same places with the same number of copies.

    Returns for each: the classes (n,), their sites (m,) and positions (n, m).
    """
    if not len(root):
        return []
    starts = np.flatnonzero(np.r_[True, root[1:] != root[:-1]])
    units, counts = root[starts], np.diff(np.r_[starts, len(root)])
    facts = np.stack([_by_unit(units, locked), _by_unit(units, filters)], axis=1)
    result = []
    for count in np.unique(counts):
        rows = np.flatnonzero(counts == count)
        members = starts[rows][:, None] + np.arange(count)
        make = np.concatenate([site[members], facts[rows]], axis=1)
        begins = np.flatnonzero(np.r_[True, (make[1:] != make[:-1]).any(1)])  # units of one make are mostly neighbours
        alike: dict[bytes, list[IntArray]] = defaultdict(list)
        for begin, end in zip(begins, [*begins[1:], len(rows)], strict=True):
            alike[make[begin].tobytes()].append(np.arange(begin, end))
        for parts in alike.values():
            same = np.concatenate(parts)
            result.append((rows[same[0]], (units[rows[same]], site[members[same[0]]], position[members[same]])))
    return [found for _, found in sorted(result, key=lambda entry: entry[0])]


def _by_unit(units: IntArray, table: dict[int, int]) -> IntArray:
    """What a table says of ascending units; 0 where it says nothing."""
    found = np.zeros(len(units), dtype=np.int64)
    keys = np.fromiter(table, dtype=np.int64, count=len(table))
    places = np.searchsorted(units, keys).clip(max=len(units) - 1)
    hit = units[places] == keys
    found[places[hit]] = np.fromiter(table.values(), dtype=np.int64, count=len(table))[hit]
    return found


def _layers(trace: Trace) -> tuple[dict[str, Layer], int, dict[str, str]]:
    layers: dict[str, Layer] = {}
    fixed = trace.fixed_macs
    odd = {}
    computed = {locked.weight: name for name, locked in trace.computed.items()}
    for call in trace.calls.values():
        shape = tuple(trace.tensors[call.weight].shape)
        extent, rest = divmod(call.macs, math.prod(shape))
        if rest:
            odd[call.weight] = "parts of its weight are used separately"
            fixed += rest
        name = computed.get(call.weight) or owner(call.weight)
        layers[name] = Layer(
            name, call.weight, call.bias, call.kind, call.groups, call.kernel, call.stride, extent, call.in_extent,
            call.out_extent, shape, call.order, call.groups > 1 and (shape[1] == 1 or shape[0] == call.groups),
        )  # fmt: skip
    return layers, fixed, odd


Draft = tuple[tuple[int, int], ChannelGroup]  # (order of the first producer, its first position), the group


def _named(
    found: list[tuple[list[Slot], str | None, IntArray]],
    trace: Trace,
    model: nn.Module,
    layers: dict[str, Layer],
    fixed_macs: int,
    marks: dict[int, set[str]],
    filters: dict[int, int],
) -> ChannelGroups:
    by_weight = {layer.weight: layer for layer in layers.values()}
    modules = dict(model.named_modules())
    drafts = [_draft(*group, trace, modules, by_weight, marks, filters) for group in found]
    for name, layer in trace.computed.items():
        if (layer.weight, 0) not in trace.sites:  # else its weight has another use, and a group from there
            made = (name,) if layer.weight in by_weight else ()
            drafts.append(((layer.order, 0), ChannelGroup(name, layer.channels, (), layer.reason, made)))
    seen: Counter[str] = Counter()
    groups = []
    for _, group in sorted((draft for draft in drafts if draft is not None), key=lambda draft: draft[0]):
        seen[group.name] += 1
        count = seen[group.name]
        groups.append(group if count == 1 else replace(group, name=f"{group.name}#{count}"))
    shapes = {name: tuple(trace.tensors[name].shape) for name in {n for n, _ in trace.sites} | set(by_weight)}
    parameters = dict(model.named_parameters())
    return ChannelGroups(
        groups,
        layers,
        dict(sorted(shapes.items())),
        sum(p.numel() for p in parameters.values()),
        fixed_macs,
        [name for name in shapes if name not in parameters],
        uncounted=sorted(trace.uncounted),
    )


def _draft(
    slots: list[Slot],
    reason: str | None,
    units: IntArray,
    trace: Trace,
    modules: dict[str, nn.Module],
    by_weight: dict[str, Layer],
    marks: dict[int, set[str]],
    filters: dict[int, int],
) -> Draft | None:
    """A group with its name, kinds and neighbours; None if no layer makes its channels."""

    def layers_of(role: str) -> list[Layer]:
        found = {by_weight[s.tensor] for s in slots if s.role == role and s.tensor in by_weight}
        return sorted(found, key=lambda layer: layer.order)

    producers, consumers = layers_of("out"), layers_of("in")
    if not producers:
        return None
    through = [p for p in producers if p.groups_follow_channels]
    words = set().union(*(marks[unit] for unit in marks.keys() & set(units.tolist())))
    kinds = words & set(KINDS)
    if through:
        kinds.add("depthwise")
    if any(layer.kind == "conv_transpose" for layer in (*producers, *consumers)):
        kinds.add("transposed")
    if any(layer.kind == "linear" for layer in producers):
        kinds.add("linear")
    lead = next((p for p in producers if p not in through), producers[0])
    lead_slot = next(s for s in slots if s.tensor == lead.weight and s.role == "out")
    rows = np.argsort(lead_slot.index[:, 0], kind="stable")
    ranked = tuple(
        Slot(s.tensor, s.dim, _role(s, trace, modules), s.index[rows])
        for s in sorted(slots, key=lambda s: (s.tensor != lead.weight, trace.rank[s.tensor]))
    )
    group = ChannelGroup(
        name=lead.name,
        size=len(units),
        slots=ranked,
        locked=reason,
        producers=tuple(p.name for p in producers),
        consumers=tuple(c.name for c in consumers),
        kinds=frozenset(kinds),
        filter_macs=filters.get(int(units[0]), 0),
        approximate=tuple(sorted(w.removeprefix(APPROXIMATE) for w in words if w.startswith(APPROXIMATE))),
        remarks=tuple(sorted(w for w in words - set(KINDS) if not w.startswith(APPROXIMATE))),
    )
    return (lead.order, int(lead_slot.index.min())), group


def _role(slot: Slot, trace: Trace, modules: dict[str, nn.Module]) -> str:
    """A hand-written or frozen normalisation is one by the name of its module."""
    if slot.role == "scale":
        owner = modules.get(slot.tensor.rpartition(".")[0])
        if owner is not None and "norm" in type(owner).__name__.lower():
            return "norm"
    return slot.role
