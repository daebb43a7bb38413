"""What a network costs: multiply-accumulates, parameters, activation memory (analytic) and latency (measured).

MACs count convolutions and matrix products with weights, without biases and normalisation. Spatial extents do not
depend on channel counts, so they are recorded once and MACs = sum(extent x number of weights): half of what
`torch.utils.flop_counter` says, exactly, also for transposed and grouped convolutions.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from rlprune.channels.groups import ChannelGroups, Layer
from rlprune.channels.tracing import Forward, working_copy
from rlprune.errors import UserError

FloatArray = npt.NDArray[np.float64]


class _MacCounter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self, model: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.macs = 0
        self._weights = {p.untyped_storage()._cdata for p in model.parameters()}

    def _is_weight(self, tensor: torch.Tensor) -> bool:
        return tensor.untyped_storage()._cdata in self._weights

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func._schema.name.split("::")[-1]
        if name in ("convolution", "_convolution"):
            x, weight, transposed = args[0], args[1], args[6]
            positions = x if transposed else out
            spatial = weight.ndim - 2
            batch = x.shape[0] if x.ndim == weight.ndim else 1
            self.macs += batch * math.prod(positions.shape[x.ndim - spatial :]) * weight.numel()
        elif name in ("mm", "addmm", "bmm", "baddbmm"):
            left, right = args[-2:] if name in ("mm", "bmm") else args[1:3]
            if left.ndim == 2 or self._is_weight(left) or self._is_weight(right):
                self.macs += math.prod(left.shape) * right.shape[-1]
        return out


def count_macs(model: nn.Module, *example_inputs: Any, kwargs: Mapping[str, Any] | None = None) -> int:
    """Multiply-accumulates of convolutions and linear layers in one call of the model.

    Args:
        model: any module; it comes out untouched.
        *example_inputs: what it is called with; a batch of two costs twice as much as one.
        kwargs: its keyword inputs.

    >>> count_macs(nn.Conv2d(3, 8, 3, padding=1), torch.zeros(1, 3, 10, 10))
    21600
    """
    worker = working_copy(model, share=False).eval()
    counter = _MacCounter(worker)
    with torch.no_grad(), counter:
        Forward(example_inputs, dict(kwargs or {}))(worker)
    return counter.macs


def count_parameters(model: nn.Module) -> int:
    """Number of parameters; tied ones count once."""
    return sum(parameter.numel() for parameter in model.parameters())


@dataclass(frozen=True)
class _Term:
    """One tensor as a function of removals: a coefficient times the product of its shape."""

    coefficient: float
    shape: tuple[int, ...]


class CostModel:
    """MACs, parameters and activation memory as functions of how many units of each group go.

    Removals are given as a mapping group name -> count, or as an array aligned with `groups.prunable`. Exact: equal to
    counting on the removed network.
    """

    def __init__(self, groups: ChannelGroups) -> None:
        """Prepare the tables for some groups."""
        self.groups = groups
        self._names = {group.name: i for i, group in enumerate(groups.prunable)}
        copies: dict[tuple[str, int], dict[int, int]] = {}
        for i, group in enumerate(groups.prunable):
            for slot in group.slots:
                places = copies.setdefault((slot.tensor, slot.dim), {})
                places[i] = places.get(i, 0) + slot.index.shape[1]
        self._copies = copies
        layers = list(groups.layers.values())
        self._macs = _Products(
            [_Term(layer.extent, layer.shape) for layer in layers], [layer.weight for layer in layers], copies, self._n
        )
        counted = [name for name in groups.shapes if name not in groups.buffers]
        self._parameters = _Products([_Term(1, groups.shapes[n]) for n in counted], counted, copies, self._n)
        self._rest = groups.parameters - int(self._parameters(np.zeros(self._n)))
        terms, tensors, dims = _activation_terms(layers)
        self._memory = _Products(terms, tensors, copies, self._n, dims)

    @property
    def _n(self) -> int:
        return len(self._names)

    def counts(self, removed: Mapping[str, int] | npt.ArrayLike | None) -> FloatArray:
        """Removals as an array aligned with `groups.prunable`."""
        if removed is None:
            return np.zeros(self._n)
        if isinstance(removed, Mapping):
            array = np.zeros(self._n)
            for name, count in removed.items():
                if name not in self._names:
                    group = self.groups[name]  # an unknown name raises here
                    if count:
                        raise UserError(f"group {name!r} is locked: {group.locked}; nothing can be removed from it")
                    continue
                array[self._names[name]] = count
            return array
        array = np.asarray(removed, dtype=np.float64)
        if array.shape != (self._n,):
            raise UserError(f"removed has shape {array.shape}; it must have one entry for each of {self._n} groups")
        return array

    def macs(self, removed: Mapping[str, int] | npt.ArrayLike | None = None) -> int:
        """MACs of the network after removals."""
        return round(self._macs(self.counts(removed))) + self.groups.fixed_macs

    def parameters(self, removed: Mapping[str, int] | npt.ArrayLike | None = None) -> int:
        """Parameters of the network after removals."""
        return round(self._parameters(self.counts(removed))) + self._rest

    def activation_memory(self, removed: Mapping[str, int] | npt.ArrayLike | None = None) -> int:
        """Elements of all outputs of convolutions and linear layers after removals (multiply by bytes per element)."""
        return round(self._memory(self.counts(removed)))

    def macs_share(self, name: str) -> float:
        """MACs of the layers that produce a group's channels, as a fraction of all MACs."""
        total = self.macs()
        return sum(self.groups.layers[p].macs for p in self.groups[name].producers) / total if total else 0.0


def _activation_terms(layers: list[Layer]) -> tuple[list[_Term], list[str], list[int]]:
    """Output elements of every layer: out_extent x output channels."""
    terms, tensors, dims = [], [], []
    for layer in layers:
        dim = 1 if layer.kind == "conv_transpose" and not layer.groups_follow_channels else 0
        copies = layer.groups if dim == 1 else 1
        if layer.kind == "conv_transpose" and dim == 0:
            copies = layer.shape[1]
        terms.append(_Term(layer.out_extent * copies, (layer.shape[dim],)))
        tensors.append(layer.weight)
        dims.append(dim)
    return terms, tensors, dims


class _Products:
    """sum_t coefficient_t * prod_d (shape_td - removed_td), with removed_td = copies_td . counts; vectorised."""

    def __init__(
        self,
        terms: list[_Term],
        tensors: list[str],
        copies: Mapping[tuple[str, int], Mapping[int, int]],
        groups: int,
        dims: list[int] | None = None,
    ) -> None:
        rows: dict[tuple[str, int], int] = {}
        sizes: list[float] = []
        owners: list[int] = []
        columns: list[int] = []
        weights: list[float] = []
        width = 2
        self._constant = np.array([t.coefficient for t in terms], dtype=np.float64)
        slots = np.full((len(terms), width), -1, dtype=np.int64)
        for i, (term, tensor) in enumerate(zip(terms, tensors, strict=True)):
            used = 0
            for d, size in enumerate(term.shape):
                key = (tensor, dims[i] if dims else d)
                if key not in copies:
                    self._constant[i] *= size
                    continue
                if key not in rows:
                    rows[key] = len(sizes)
                    for group, count in copies[key].items():
                        owners.append(rows[key])
                        columns.append(group)
                        weights.append(count)
                    sizes.append(0.0)
                sizes[rows[key]] = float(size)
                if used == width:
                    raise AssertionError("a tensor shrinks along more than two dimensions")
                slots[i, used] = rows[key]
                used += 1
        self._matrix = np.zeros((len(sizes) + 1, groups))
        np.add.at(self._matrix, (owners, columns), weights)
        self._sizes = np.array([*sizes, 1.0])
        self._slots = slots  # -1 picks the last size, 1

    def __call__(self, counts: FloatArray) -> float:
        left = self._sizes - self._matrix @ counts
        return float(self._constant @ (left[self._slots[:, 0]] * left[self._slots[:, 1]]))


@dataclass(frozen=True)
class Latency:
    """Measured time of one call: median and interquartile range in seconds over `n` measurements."""

    median_s: float
    iqr_s: float
    n: int


def measure_latency(
    model: nn.Module,
    *example_inputs: Any,
    kwargs: Mapping[str, Any] | None = None,
    min_run_time: float = 0.5,
    threads: int | None = None,
) -> Latency:
    """Time a model's forward pass in evaluation mode with `torch.utils.benchmark`.

    Args:
        model: any module; its training flags are restored.
        *example_inputs: what it is called with, on the device to measure.
        kwargs: its keyword inputs.
        min_run_time: seconds to measure for.
        threads: intra-op threads; default: torch's current number.
    """
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # CUDA's compiler without a GPU is no news
    from torch.utils import benchmark  # loads the extension builder: only for who measures

    flags = [(module, module.training) for module in model.modules()]
    model.eval()
    forward = Forward(example_inputs, dict(kwargs or {}))
    try:
        with torch.inference_mode():
            timer = benchmark.Timer(
                "model(*args, **kwargs)",
                globals={"model": model, "args": forward.args, "kwargs": dict(forward.kwargs)},
                num_threads=threads or torch.get_num_threads(),
            )
            result = timer.blocked_autorange(min_run_time=min_run_time)
    finally:
        for module, training in flags:
            module.training = training
    return Latency(float(result.median), float(result.iqr), len(result.times))
