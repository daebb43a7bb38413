"""Labels: which unit every element of a tensor belongs to, and which units turned out to be one.

Every output channel of a layer gets a fresh positive integer, the label of its unit. Wherever two labels meet, an edge
between them is noted; at the end one vectorised pass turns edges into classes. What must stay has a negative label
that stands for a reason in words.

At any time a tensor's labels vary along one axis only (`Labels`): when an operator spreads them over two, as
`view(n, 2, c // 2, h, w)` does, the units along one of them are united, because only whole hyper-planes can go.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from rlprune.channels.units import IntArray


@dataclass(frozen=True, eq=False)
class Labels:
    """A tensor whose elements belong to units: labels vary along `axis` only.

    `axis` is None when the whole tensor has one label (`vector` has length 1).
    """

    axis: int | None
    vector: IntArray


@dataclass(frozen=True)
class Fixed:
    """A tensor that belongs to no unit and whose size is fixed: inputs, constants, results of mixing channels."""

    reason: int


@dataclass(frozen=True)
class Lost:
    """The index of a parameter's dimension that varies along several axes, so that it is no function of one."""

    axes: frozenset[int]


@dataclass(frozen=True, eq=False)
class Part:
    """One parameter inside a `Bare` tensor: for each of its dimensions, where that dimension's index went.

    Each entry of `where` is a `Labels` whose vector holds indices into the dimension, or None when the dimension has
    size one or is constant, or `Lost`.
    """

    name: str
    where: tuple[Labels | Lost | None, ...]


@dataclass(frozen=True, eq=False)
class Bare:
    """A parameter or buffer, or an element-wise function or view of some, that has not met any labels yet."""

    parts: tuple[Part, ...]


Entry = Labels | Fixed | Bare | None  # None: belongs to nothing and has no fixed size (zeros, arange ...)


def spread(entry: Labels, shape: tuple[int, ...]) -> Tensor:
    """The labels as an int64 tensor of the data tensor's shape, without using memory for the constant axes."""
    view = [1] * len(shape)
    if entry.axis is not None:
        view[entry.axis] = -1
    return torch.from_numpy(entry.vector).view(view).expand(shape)


def varying_axes(labels: Tensor) -> tuple[Tensor, list[int]]:
    """The labels with constant axes cut to length one, and the axes that are not constant."""
    for axis in range(labels.ndim):  # first the axes that are constant by construction, then look at values
        if labels.stride(axis) == 0:
            labels = labels.narrow(axis, 0, 1)
    axes = []
    for axis in range(labels.ndim):
        if labels.shape[axis] > 1:
            first = labels.narrow(axis, 0, 1)
            if bool((labels == first).all()):
                labels = first
            else:
                axes.append(axis)
    return labels, axes


class Book:
    """Hands out labels and keeps the edges, the locks and the marks made during a trace."""

    def __init__(self) -> None:
        self._next = 1
        self._edges: list[tuple[IntArray, IntArray]] = []
        self._locks: list[tuple[IntArray, int]] = []
        self._marks: list[tuple[IntArray, str]] = []
        self.reasons: list[str] = []
        self._reason_ids: dict[str, int] = {}

    def fresh(self, count: int) -> IntArray:
        """`count` new labels."""
        labels = np.arange(self._next, self._next + count, dtype=np.int64)
        self._next += count
        return labels

    def reason(self, text: str) -> int:
        """The (negative) label that means "must stay, because ..."."""
        if text not in self._reason_ids:
            self._reason_ids[text] = -1 - len(self.reasons)
            self.reasons.append(text)
        return self._reason_ids[text]

    def reason_text(self, label: int) -> str:
        """The words behind a negative label."""
        return self.reasons[-1 - label]

    def unite(self, first: IntArray, second: IntArray) -> None:
        """Element by element, what has one of these labels goes with what has the other, or stays with it."""
        if first is second:
            return
        both = (first > 0) & (second > 0)
        if both.all():
            self._edges.append((first, second))
            return
        if both.any():
            self._edges.append((first[both], second[both]))
        for free, stays in ((first, second), (second, first)):
            for reason in np.unique(stays[(stays < 0) & (free > 0)]):
                self._locks.append((free[(stays == reason) & (free > 0)], int(reason)))

    def lock(self, labels: IntArray, reason: int) -> None:
        """These labels must stay."""
        labels = labels[labels > 0]
        if labels.size:
            self._locks.append((labels, reason))

    def mark(self, labels: IntArray, kind: str) -> None:
        """Remember a property of the labels' group ("residual", "concatenated" ...)."""
        self._marks.append((labels[labels > 0], kind))

    def collapse(self, labels: Tensor, keep: int) -> Labels:
        """Labels that vary along several axes: unite them along all but `keep`."""
        table = labels.movedim(keep, 0).reshape(labels.shape[keep], -1).numpy()
        first = table[:, 0].copy()
        if table.shape[1] > 1:
            rest = table[:, 1:]
            pairs = np.unique(np.stack([np.broadcast_to(first[:, None], rest.shape).ravel(), rest.ravel()]), axis=1)
            self.unite(pairs[0], pairs[1])
        return Labels(keep, first)

    def classes(self) -> tuple[IntArray, dict[int, int], dict[int, set[str]]]:
        """Solve: label -> class representative, class -> first reason to stay, class -> marks."""
        parent = np.arange(self._next, dtype=np.int64)
        if self._edges:
            first = np.concatenate([a for a, _ in self._edges])
            second = np.concatenate([b for _, b in self._edges])
            while True:
                a, b = parent[first], parent[second]
                differ = a != b
                if not differ.any():
                    break
                first, second, a, b = first[differ], second[differ], a[differ], b[differ]
                np.minimum.at(parent, np.maximum(a, b), np.minimum(a, b))
                while True:
                    jumped = parent[parent]
                    if np.array_equal(jumped, parent):
                        break
                    parent = jumped
        locked: dict[int, int] = {}
        for labels, reason in self._locks:
            for root in np.unique(parent[labels]).tolist():
                locked.setdefault(root, reason)
        marks: dict[int, set[str]] = {}
        for labels, kind in self._marks:
            for root in np.unique(parent[labels]).tolist():
                marks.setdefault(root, set()).add(kind)
        return parent, locked, marks
