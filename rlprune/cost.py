"""What a network costs: multiply-accumulates, parameters, activation memory (analytic) and latency (measured).

MACs count convolutions and matrix products with weights, without biases and normalisation. Spatial extents do not
depend on channel counts, so they are recorded once and MACs = sum(extent x number of weights): half of what
`torch.utils.flop_counter` says, exactly, also for transposed and grouped convolutions.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

from rlprune.channels.copying import unwrapped
from rlprune.channels.forward import Forward, OperatorMode, plainly, running, warn_uncounted, working_copy
from rlprune.channels.groups import ChannelGroups
from rlprune.channels.rules.table import known
from rlprune.errors import UserError

BLOCK_S = 0.01  # of passes that are timed as one

Counts = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]


class _MacCounter(OperatorMode):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.macs = 0
        self.uncounted: set[str] = set()
        self.active = WeakIdKeyDictionary()  # what is computed from the model's inputs
        self._weights = {p.untyped_storage()._cdata for p in model.parameters()}

    def _is_weight(self, tensor: torch.Tensor) -> bool:
        return tensor.untyped_storage()._cdata in self._weights

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func._schema.name.split("::")[-1]
        if name in ("convolution", "_convolution", "deform_conv2d"):
            x, weight, transposed = args[0], args[1], name != "deform_conv2d" and args[6]
            positions = x if transposed else out
            spatial = weight.ndim - 2
            batch = x.shape[0] if x.ndim == weight.ndim else 1
            self.macs += batch * math.prod(positions.shape[x.ndim - spatial :]) * weight.numel()
        elif name in ("mm", "addmm", "bmm", "baddbmm"):
            left, right = args[-2:] if name in ("mm", "bmm") else args[1:3]
            if left.ndim == 2 or self._is_weight(left) or self._is_weight(right):
                self.macs += math.prod(left.shape) * right.shape[-1]
        inputs = [value for value in tree_leaves((args, kwargs)) if isinstance(value, torch.Tensor)]
        if any(tensor in self.active for tensor in inputs):
            self.active.update((leaf, True) for leaf in tree_leaves(out) if isinstance(leaf, torch.Tensor))
            if not known(func) and any(tensor.ndim > 1 and self._is_weight(tensor) for tensor in inputs):
                self.uncounted.add(name)
        return out


def count_macs(model: nn.Module, *example_inputs: Any, kwargs: Mapping[str, Any] | None = None) -> int:
    """Multiply-accumulates of convolutions and linear layers in one call of the model.

    Operators that take weights and whose MACs are not known are named in a warning.

    Args:
        model: any module; it comes out untouched.
        *example_inputs: what it is called with; a batch of two costs twice as much as one.
        kwargs: its keyword inputs.

    >>> count_macs(nn.Conv2d(3, 8, 3, padding=1), torch.zeros(1, 3, 10, 10))
    21600
    """
    model = unwrapped(model)
    with plainly(model), torch.no_grad(), running("run"):
        worker = working_copy(model).eval()
        counter = _MacCounter(worker)
        with counter:
            Forward(example_inputs, dict(kwargs or {}))(
                worker, lambda inputs: counter.active.update((tensor, True) for tensor in inputs)
            )
    warn_uncounted(counter.uncounted)
    return counter.macs


def count_parameters(model: nn.Module) -> int:
    """Number of parameters; tied ones count once."""
    return sum(parameter.numel() for parameter in model.parameters())


@dataclass(frozen=True, eq=False)
class BilinearCost:
    """A cost `constant + sum_t weight[t] * (a[t] - A[t] @ c) * (b[t] - B[t] @ c)` of removed counts `c`.

    Every weight tensor has at most two pruned dimensions, so MACs and parameters both have this form. Shapes:
    `weight`, `a`, `b` (T,), `A`, `B` (T, n) for n groups; all integers, so whole counts give exact costs.
    """

    weight: Counts
    a: Counts
    b: Counts
    A: Counts
    B: Counts
    constant: int = 0
    _floats: tuple[FloatArray, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        tables = (self.weight, self.a, self.b, self.A, self.B)
        object.__setattr__(self, "_floats", tuple(np.ascontiguousarray(t, dtype=np.float64) for t in tables))

    def __call__(self, counts: Sequence[int] | Counts) -> int:
        """The exact cost with `counts` (n,) filters removed."""
        weight, a, b, A, B = self._floats  # whole numbers below 2**53 are exact, and floats are fast
        c = np.asarray(counts, dtype=np.float64)
        return int(((a - A @ c) * (b - B @ c)) @ weight) + self.constant

    def many(self, counts: FloatArray) -> FloatArray:
        """The costs (...) of count vectors (..., n), which may be fractional."""
        weight, a, b, A, B = self._floats
        return np.asarray(((a - counts @ A.T) * (b - counts @ B.T)) @ weight + self.constant)

    def along(self, group: int, counts: Counts, choices: Counts) -> Counts:
        """The exact costs (K,) when group number `group` loses `choices` (K,) filters and the others `counts` (n,)."""
        weight, a, b, A, B = self._floats
        others = counts.astype(np.float64)
        others[group] = 0.0
        a, b = a - A @ others, b - B @ others
        da, db = A[:, group], B[:, group]
        constant, curve = int((a * b) @ weight) + self.constant, int((da * db) @ weight)
        slope = int((da * b + db * a) @ weight)
        return np.asarray(constant + choices * (curve * choices - slope), dtype=np.int64)

    def shares(self, sizes: Counts, removed: Counts) -> FloatArray:
        """The fraction (n,) of the present cost that would go with each whole group of `sizes` filters."""
        a, b = self.a - self.A @ removed, self.b - self.B @ removed
        slope = (self.weight * b) @ self.A + (self.weight * a) @ self.B
        gain = slope * sizes - (self.weight @ (self.A * self.B)) * sizes * sizes
        return np.asarray(gain / max(1, self(removed)), dtype=np.float64)

    @classmethod
    def of_macs(cls, groups: ChannelGroups, names: Sequence[str]) -> BilinearCost:
        """MACs of all conv and linear layers, as a function of the counts removed from the groups `names`."""
        terms = [(layer.extent, layer.weight, tuple(range(len(layer.shape)))) for layer in groups.layers.values()]
        filtered = np.array([groups[name].filter_macs for name in names], dtype=np.int64)
        return cls._build(groups, names, terms, groups.fixed_macs, filtered)

    @classmethod
    def of_parameters(cls, groups: ChannelGroups, names: Sequence[str]) -> BilinearCost:
        """Parameters, as a function of the counts removed from the groups `names`."""
        touched = sorted({slot.tensor for name in names for slot in groups[name].slots} - groups.buffers)
        rest = groups.parameters - sum(math.prod(groups.shapes[tensor]) for tensor in touched)
        terms = [(1, tensor, tuple(range(len(groups.shapes[tensor])))) for tensor in touched]
        return cls._build(groups, names, terms, rest)

    @classmethod
    def of_activations(cls, groups: ChannelGroups, names: Sequence[str]) -> BilinearCost:
        """Output elements of all conv and linear layers, as a function of the counts removed from `names`."""
        terms = []
        for layer in groups.layers.values():
            copies, dim = 1, 0
            if layer.kind == "conv_transpose":
                dim = 0 if layer.groups_follow_channels else 1
                copies = layer.groups if dim else layer.shape[1]
            terms.append((layer.out_extent * copies, layer.weight, (dim,)))
        return cls._build(groups, names, terms)

    @classmethod
    def _build(
        cls,
        groups: ChannelGroups,
        names: Sequence[str],
        terms: Sequence[tuple[int, str, tuple[int, ...]]],
        constant: int = 0,
        each: Counts | None = None,
    ) -> BilinearCost:
        """The sum of terms (factor, tensor, dims): the factor times the tensor's sizes along these dimensions.

        With every unit of the groups goes `each` (n,) of the constant.
        """
        copies: dict[tuple[str, int], Counts] = {}
        for column, name in enumerate(names):
            for slot in groups[name].slots:
                row = copies.setdefault((slot.tensor, slot.dim), np.zeros(len(names), dtype=np.int64))
                row[column] += slot.index.shape[1]
        table = np.zeros((2, len(terms), len(names)), dtype=np.int64)
        width = np.ones((2, len(terms)), dtype=np.int64)
        weight = np.zeros(len(terms), dtype=np.int64)
        for number, (factor, tensor, dims) in enumerate(terms):
            shape = groups.shapes[tensor]
            shrinking = [dim for dim in dims if (tensor, dim) in copies]
            if len(shrinking) > 2:
                raise ValueError(f"{tensor} is pruned along {len(shrinking)} dimensions; at most two are understood")
            for place, dim in enumerate(shrinking):
                table[place, number] = copies[tensor, dim]
                width[place, number] = shape[dim]
            weight[number] = factor * math.prod(shape[dim] for dim in dims if dim not in shrinking)
        if each is not None and each.any():
            weight, table = np.append(weight, 1), np.concatenate([table, np.zeros_like(table[:, :1])], axis=1)
            width = np.concatenate([width, [[0], [1]]], axis=1)
            table[0, -1] = each
        return cls(weight, width[0], width[1], table[0], table[1], constant)


class CostModel:
    """MACs, parameters and activation memory as functions of how many units of each group go.

    Removals are given as a mapping group name -> count, or as an array aligned with `groups.prunable`. Exact: equal to
    counting on the removed network.
    """

    def __init__(self, groups: ChannelGroups) -> None:
        """Prepare the tables for some groups."""
        self.groups = groups
        self._place = {group.name: i for i, group in enumerate(groups.prunable)}
        names = list(self._place)
        self._macs = BilinearCost.of_macs(groups, names)
        self._parameters = BilinearCost.of_parameters(groups, names)
        self._memory = BilinearCost.of_activations(groups, names)

    def counts(self, removed: Mapping[str, int] | npt.ArrayLike | None) -> FloatArray:
        """Removals as an array aligned with `groups.prunable`."""
        if removed is None:
            return np.zeros(len(self._place))
        if isinstance(removed, Mapping):
            array = np.zeros(len(self._place))
            for name, count in removed.items():
                if name not in self._place:
                    group = self.groups[name]  # an unknown name raises here
                    if count:
                        raise UserError(f"group {name!r} is locked: {group.locked}; nothing can be removed from it")
                    continue
                array[self._place[name]] = count
            return array
        array = np.asarray(removed, dtype=np.float64)
        if array.shape != (len(self._place),):
            raise UserError(
                f"removed has shape {array.shape}; it must have one entry for each of {len(self._place)} groups"
            )
        return array

    def macs(self, removed: Mapping[str, int] | npt.ArrayLike | None = None) -> int:
        """MACs of the network after removals."""
        return round(float(self._macs.many(self.counts(removed))))

    def parameters(self, removed: Mapping[str, int] | npt.ArrayLike | None = None) -> int:
        """Parameters of the network after removals."""
        return round(float(self._parameters.many(self.counts(removed))))

    def activation_memory(self, removed: Mapping[str, int] | npt.ArrayLike | None = None) -> int:
        """Elements of all outputs of convolutions and linear layers after removals (multiply by bytes per element)."""
        return round(float(self._memory.many(self.counts(removed))))

    def macs_share(self, name: str) -> float:
        """MACs of the layers that produce a group's channels, as a fraction of all MACs."""
        total = self.macs()
        return sum(self.groups.layers[p].macs for p in self.groups[name].producers) / total if total else 0.0


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
    """Time a model's forward pass in evaluation mode with `torch.utils.benchmark`, in blocks of ten milliseconds.

    Args:
        model: any module; its training flags are restored.
        *example_inputs: what it is called with, on the device to measure.
        kwargs: its keyword inputs.
        min_run_time: seconds to measure for, about.
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
            times = [timer.timeit(1).median]
            number = max(1, round(BLOCK_S / times[0]))
            if (blocks := round(min_run_time / (number * times[0]))) > 3:  # else the one is all there is time for
                times = [timer.timeit(number).median for _ in range(blocks)]
    finally:
        for module, training in flags:
            module.training = training
    low, median, high = np.quantile(times, (0.25, 0.5, 0.75))
    return Latency(float(median), float(high - low), len(times))
