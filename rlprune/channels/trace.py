"""What is gathered while a model runs: labels of tensors and parameters, and the calls of layers."""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor, nn

from rlprune.channels.computed import Locked, owner
from rlprune.channels.forward import Step
from rlprune.channels.labels import Bare, Book, Entry, Fixed, Labels, Part
from rlprune.channels.units import IntArray

APPROXIMATE = "~"  # a mark that begins so says what only an approximate removal changes


UNSET = "channels of a fixed tensor join it, for nothing was written into them"


@dataclass
class Call:
    """What is known of one layer (a weight used by convolutions or matrix products) after all its calls."""

    weight: str
    kind: str
    order: int
    groups: int = 1
    kernel: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    bias: str | None = None
    macs: int = 0
    in_extent: int = 0
    out_extent: int = 0


class Trace:
    """Everything gathered while the model runs: labels of tensors, of parameters, and the calls of layers."""

    def __init__(
        self,
        tensors: Mapping[str, Tensor],
        private: bool = False,
        made: Mapping[str, tuple[str, str]] | None = None,
        approximate: bool = False,
    ) -> None:
        self.approximate = approximate  # whether what only changes statistics is noted instead of locked
        self.head_counts: set[int] = set()  # numbers of attention heads, as the model's attributes say
        self.reads: set[tuple[str, str]] = set()  # (module path, attribute) of the plain numbers that the model reads
        self.path: list[Step] = []  # what ran, but for a pass in training mode
        self.filtered: list[tuple[IntArray, int]] = []  # labels that meet a fixed filter, MACs of each
        self.uncounted: set[str] = set()  # operators that take weights and whose MACs are unknown
        self.private = private  # whether the parameters are copies that the forward pass may write to
        self.makers = made or {}  # see `computed.makers`
        self.computed: dict[str, Locked] = {}
        self.parameter_storages = {
            t.untyped_storage()._cdata: n for n, t in tensors.items() if isinstance(t, nn.Parameter)
        }
        self.book = Book()
        self.tensors = dict(tensors)
        self.rank = {name: place for place, name in enumerate(tensors)}
        self.sites: dict[tuple[str, int], IntArray] = {}
        self.roles: dict[tuple[str, int], str] = {}
        self.calls: dict[str, Call] = {}
        self.fixed_macs = 0
        self.locked_tensors: dict[str, int] = {}
        self.touched: set[int] = set()
        self.training = False  # whether a pass in training mode found more layers
        self.counting = True
        self._active: dict[int, Tensor] = {}  # what is computed from the model's inputs
        self._sources = {id(tensor): frozenset([name]) for name, tensor in tensors.items()}
        self._entries: dict[int, Entry] = {}
        self._alive: list[Tensor] = []  # else id() would be reused
        self._storages: dict[int, list[Tensor]] = {}
        self._storage_of: dict[int, int] = {}
        for name, tensor in tensors.items():
            where = tuple(
                Labels(dim, np.arange(size, dtype=np.int64)) if size > 1 else None
                for dim, size in enumerate(tensor.shape)
            )
            self.put(tensor, Bare((Part(name, where),)))

    def put(self, tensor: Tensor, entry: Entry) -> None:
        """Remember what a tensor's elements belong to."""
        storage = tensor.untyped_storage()._cdata
        if self._storage_of.get(id(tensor)) != storage:
            self._storage_of[id(tensor)] = storage
            self._alive.append(tensor)
            self._storages.setdefault(storage, []).append(tensor)
        self._entries[id(tensor)] = entry

    def forget(self) -> None:
        """Let go of the tensors of a pass, and keep those that the model has kept: caches."""
        refs = {id(tensor): weakref.ref(tensor) for tensor in (*self._alive, *self._active.values())}
        active, self._active, self._alive, self._storages = set(self._active), {}, [], {}
        left = {key: tensor for key, ref in refs.items() if (tensor := ref()) is not None}
        for table in (self._entries, self._sources, self._storage_of):
            for key in table.keys() - left.keys():
                del table[key]
        for key, tensor in left.items():
            self._alive.append(tensor)
            self._storages.setdefault(tensor.untyped_storage()._cdata, []).append(tensor)
            if key in active:
                self._active[key] = tensor

    def get(self, tensor: Tensor) -> Entry:
        """What a tensor's elements belong to; a tensor never seen is a constant."""
        if id(tensor) not in self._entries:
            self.put(tensor, self.fixed("it joins a constant tensor that is neither parameter nor buffer"))
        return self._entries[id(tensor)]

    def labels(self, tensor: Tensor) -> Labels | None:
        """A tensor's labels, if it has any but those of memory that nothing was written into yet."""
        entry = self.get(tensor)
        unset = isinstance(entry, Labels) and bool((entry.vector == self.book.reason(UNSET)).all())
        return entry if isinstance(entry, Labels) and not unset else None

    def follow(self, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> None:
        """Remember for the outputs of an operator whether they depend on the model's inputs, else on which tensors."""
        self.touched.update(map(id, inputs))
        active = any(id(tensor) in self._active for tensor in inputs)
        names = frozenset().union(*(self._sources.get(id(tensor), frozenset()) for tensor in inputs))
        for out in outputs:
            if active:
                self._active[id(out)] = out
            elif names:
                self._alive.append(out)
                self._sources[id(out)] = names

    def activate(self, tensor: Tensor) -> None:
        """Enter an input of the model."""
        self._active[id(tensor)] = tensor

    def is_active(self, tensor: Tensor) -> bool:
        """Whether a tensor depends on the model's inputs."""
        return id(tensor) in self._active

    def sources(self, tensor: Tensor) -> list[str]:
        """The parameters that a tensor is computed from; none if the model's inputs go into it."""
        names = frozenset() if self.is_active(tensor) else self._sources.get(id(tensor), frozenset())
        return [name for name in self.tensors if name in names and isinstance(self.tensors[name], nn.Parameter)]

    def sharing(self, tensor: Tensor) -> list[Tensor]:
        """The other known tensors in the same memory."""
        storage = tensor.untyped_storage()._cdata
        known = self._storages.get(storage, [])  # some may have moved on (`set_`), and freed memory is used again
        return [t for t in known if t is not tensor and t.untyped_storage()._cdata == storage]

    def fixed(self, reason: str) -> Fixed:
        """An entry for a tensor that cannot change its size."""
        return Fixed(self.book.reason(reason))

    def site(self, name: str, dim: int, role: str = "scale") -> IntArray:
        """Labels of the positions of a parameter along one dimension; the first call makes them."""
        key = (name, dim)
        if key not in self.sites:
            size = self.tensors[name].shape[dim]
            self.sites[key] = self.book.fresh(size)
            self.roles[key] = role
            if name in self.locked_tensors:
                self.book.lock(self.sites[key], self.locked_tensors[name])
        elif self.roles[key] == "scale":
            self.roles[key] = role
        return self.sites[key]

    def lock(self, entry: Entry, reason: str) -> None:
        """Lock whatever an entry holds: labels now, a bare parameter's labels for good."""
        code = self.book.reason(reason)
        if isinstance(entry, Labels):
            self.book.lock(entry.vector, code)
        elif isinstance(entry, Bare):
            for part in entry.parts:
                self.locked_tensors.setdefault(part.name, code)
                for dim in range(len(part.where)):
                    if (part.name, dim) in self.sites:
                        self.book.lock(self.sites[part.name, dim], code)

    def soften(self, labels: IntArray, reason: str) -> None:
        """These labels can go only approximately: lock them, or note why if that was asked for."""
        if self.approximate:
            self.book.mark(labels, APPROXIMATE + reason)
        else:
            self.book.lock(labels, self.book.reason(reason))

    def count_filter(self, labels: IntArray, macs: int) -> None:
        """Count MACs of a product that does the same to every channel; they go with the channels."""
        if self.counting:
            self.filtered.append((labels, macs // max(len(labels), 1)))
            self.fixed_macs += macs

    def count_fixed(self, macs: int) -> None:
        """Count MACs of a product whose weight is no whole parameter; they never change."""
        if self.counting:
            self.fixed_macs += macs

    def call(self, weight: str, kind: str, macs: int, in_extent: int, out_extent: int) -> Call:
        """Count one call of a layer."""
        call = self.calls.setdefault(weight, Call(weight, kind, len(self.calls) + len(self.computed)))
        if self.counting:
            call.macs += macs
            call.in_extent += in_extent
            call.out_extent += out_extent
        return call

    def never_ran(self) -> dict[str, str]:
        """Layers whose weights (parameters of two dimensions or more) no operator saw -> such a weight."""
        return {
            self.makers.get(name, (owner(name), ""))[0]: name
            for name, t in self.tensors.items()
            if isinstance(t, nn.Parameter) and t.ndim > 1 and id(t) not in self.touched
        }


class ParameterWritten(RuntimeError):
    """The forward pass writes into a parameter, so the trace needs a copy of its own."""
