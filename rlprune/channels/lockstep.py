"""Masked and removed network in lockstep: at every product with a weight they are compared.

The removed network goes on with the masked one's values. So rounding never adds up, a data-dependent choice (a
detector's proposals) is the same in both, and a difference names the layer it enters. Random numbers are the same for
both, too: every draw is one number, whatever its shape.

Where the removed network's input of a product is the masked one's without the channels that are gone, so is its output,
for the weight is cut alike; then the product is not computed. All others are, and their outputs are compared.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rlprune.channels.copying import modules_in, tensors_of
from rlprune.channels.forward import OperatorMode, Step, step
from rlprune.channels.groups import ChannelGroups
from rlprune.channels.plan import PruningPlan
from rlprune.channels.reuse import ROOM, Reuse
from rlprune.channels.surgery import memory_format
from rlprune.channels.units import IntArray, Layer

DIFFERS = "removing a channel changes more than that channel"
_PRODUCTS = {"convolution": (1,), "_convolution": (1,), "deform_conv2d": (1,), "mm": (0, 1), "bmm": (0, 1),
             "linear": (1,), "addmm": (1, 2), "baddbmm": (1, 2)}  # fmt: skip
_TOLERANCES = {torch.float64: 1e-7, torch.float32: 1e-4}


class Mismatch(RuntimeError):
    """The removed network departs from the masked one's path or shapes."""


@dataclass(frozen=True)
class Operands:
    """What a product is computed from, where the weight is a whole parameter and its input's channels have one axis.

    Attributes:
        input: what meets the weight.
        version: of its memory then; another one says that it was written to.
        axis: of the input, that the product sums over, and of the output, that takes its place.
        settings: the operator and its other arguments (strides ...).
    """

    input: Tensor
    version: int
    axis: int
    settings: tuple[Any, ...]


@dataclass(frozen=True)
class Product:
    """One executed product with a weight.

    Attributes:
        layer: whose weight it is.
        dim: the parameter's dimension that its outputs are.
        output: its result.
        operands: what it was computed from, if that is simple and was kept.
    """

    layer: str
    dim: int
    output: Tensor
    operands: Operands | None = None


class _Watch(OperatorMode):
    """Sees every product with a weight of the model, and makes draws of random numbers independent of shapes."""

    def __init__(self, model: nn.Module, groups: ChannelGroups) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._by_weight = {layer.weight: layer for layer in groups.layers.values()}
        tensors = tensors_of(modules_in(model))
        self._parameters = {name: t for name, t in tensors.items() if isinstance(t, nn.Parameter)}
        self._names = {p.untyped_storage()._cdata: n for n, p in self._parameters.items()}
        self._written: set[str] = set()
        self._draws = 0
        self.steps = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        self.steps += 1
        name = func._schema.name.split("::")[-1]
        if func._schema.is_mutable and args and isinstance(args[0], Tensor):
            self._written |= {self._name(args[0])} - {""}
        if torch.Tag.nondeterministic_seeded in func.tags:
            return self._drawn(name, args, kwargs, self._run(func, args, kwargs))
        for place in _PRODUCTS.get(name, ()):
            layer = self._by_weight.get(self._name(args[place]))
            if layer is not None:
                dim = self._output_dim(name, args, place, layer, self._parameters[layer.weight])
                operands = self._operands(name, args, kwargs, place)
                return self.product(layer.name, dim, operands, lambda: self._run(func, args, kwargs))
        return self._run(func, args, kwargs)

    def _run(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return func(*args, **kwargs)

    def _name(self, tensor: Tensor) -> str:
        """The parameter in whose memory a tensor lies."""
        return self._names.get(tensor.untyped_storage()._cdata, "")

    def _operands(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], place: int) -> Operands | None:
        weight, bias = args[place], None
        if name in ("convolution", "_convolution") and not args[6] and args[8] == 1:
            x, axis, outputs, bias, settings = args[0], 1, 0, args[2], args[3:]
        elif name == "linear":
            x, axis, outputs, settings = args[0], args[0].ndim - 1, 0, ()
            bias = args[2] if len(args) > 2 else None
        elif name in ("mm", "addmm"):
            axis = outputs = place - _PRODUCTS[name][0]  # the weight is on the left, or on the right
            x = args[sum(_PRODUCTS[name]) - place]
            bias, settings = args[0] if name == "addmm" else None, (*kwargs.items(),)
        else:
            return None
        parameter = self._parameters[self._name(weight)]
        whole = parameter.ndim == weight.ndim and parameter.numel() == weight.numel()
        if bias is not None:
            offset = self._parameters.get(self._name(bias))
            whole = whole and offset is not None and offset.numel() == bias.numel() == weight.shape[outputs]
        names = self._name(weight), "" if bias is None else self._name(bias)
        if not whole or not self._written.isdisjoint(names):
            return None
        return Operands(x, 0 if x.is_inference() else x._version, axis, (name, *names, *settings))

    def _output_dim(self, name: str, args: tuple[Any, ...], place: int, layer: Layer, parameter: Tensor) -> int:
        """Which dimension of a weight an operator's output channels are; 0 for whole groups of a convolution."""
        if name in ("convolution", "_convolution"):
            return int(bool(args[6]) and not layer.groups_follow_channels)
        if name in ("linear", "deform_conv2d"):
            return 0
        operand = args[place]
        axis = operand.ndim - (2 if place == _PRODUCTS[name][0] else 1)
        alike = [
            d
            for d in range(parameter.ndim)
            if parameter.shape[d] == operand.shape[axis] and parameter.stride(d) == operand.stride(axis)
        ]
        return alike[0] if alike else 0

    def _drawn(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> Any:
        self._draws += 1
        part = (self._draws * 0.618034) % 1.0
        if name.startswith("native_dropout"):
            return args[0] / (1.0 - args[1]) if args[1] < 1 else args[0] * 0, torch.ones_like(out[1])
        if name.startswith("rrelu_with_noise") and args[4:5] == (True,):  # its noise is the slopes, for gradients
            slope = (float(args[2]) + float(args[3])) / 2
            out.copy_(torch.where(out < 0, out / args[1] * slope, out))
            args[1].copy_(torch.where(out < 0, slope, 1.0))
        elif isinstance(out, Tensor) and name.startswith("bernoulli"):
            out.fill_(1)
        elif isinstance(out, Tensor) and out.is_floating_point() and name.rstrip("_") in _UNIFORM:
            low, high = (args[1:3] + (0.0, 1.0)[len(args[1:3]) :]) if name == "uniform_" else (0.0, 1.0)
            out.fill_(low + (high - low) * part)
        elif isinstance(out, Tensor) and out.is_floating_point() and name.rstrip("_") in _NORMAL:
            if any(isinstance(value, Tensor) for value in args) and name == "normal":  # of means, deviations or both
                std = args[1] if len(args) > 1 else 1.0
                return args[0] + std * torch.full_like(out, 2.0 * part - 1.0)
            plain = name != "normal_"
            mean, std = (0.0, 1.0) if plain else (args[1:3] + (0.0, 1.0)[len(args[1:3]) :])
            out.fill_(mean + std * (2.0 * part - 1.0))
        return out

    def product(self, name: str, dim: int, operands: Operands | None, run: Callable[[], Tensor]) -> Tensor:
        """One product with the weight of a layer."""
        raise NotImplementedError


_UNIFORM = ("rand", "rand_like", "uniform", "exponential")
_NORMAL = ("randn", "randn_like", "normal")


class Record(_Watch):  # type: ignore[no-untyped-call]
    """Keeps every product of the masked network; `reuse` runs them."""

    def __init__(self, model: nn.Module, groups: ChannelGroups, reuse: Reuse) -> None:
        super().__init__(model, groups)
        self._reuse = reuse
        self.products: list[Product] = []
        self.path: list[Step] = []
        self._room = ROOM

    def _run(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        result = self._reuse(func, args, kwargs)
        self.path.append(step(func, result))
        return result

    def product(self, name: str, dim: int, operands: Operands | None, run: Callable[[], Tensor]) -> Tensor:
        """Keep it."""
        output = run()
        if operands is not None:
            self._room -= operands.input.nbytes
        kept = operands if self._room > 0 else None
        self.products.append(Product(name, dim, output.detach().clone(), kept))  # in-place activations follow
        return output


class Follow(_Watch):  # type: ignore[no-untyped-call]
    """Compares each product of the removed network with the recorded one, and goes on with that one.

    Without `values` it is only to run: recorded products serve as long as layers and shapes are those of the record.
    """

    def __init__(
        self, model: nn.Module, groups: ChannelGroups, plan: PruningPlan, products: list[Product], values: bool = True
    ) -> None:
        super().__init__(model, groups)
        self.plan = plan
        self.values = values
        self.left = products
        self.wrong: list[str] = []
        self.at: tuple[str, ...] = ()
        self._kept = groups.kept(plan)
        self._groups = groups

    def product(self, name: str, dim: int, operands: Operands | None, run: Callable[[], Tensor]) -> Tensor:
        """Compare it."""
        self.at = (name,)
        if not self.left or self.left[0].layer != name:
            if not self.values:
                self.left = []
                return run()
            raise Mismatch("the smaller network runs its layers in another order")
        recorded = self.left.pop(0)
        known = self._known(recorded, operands)
        if known is None:
            output = run()
            expected = self._expected(recorded, output)
            if expected.shape != output.shape and not self.values:
                return output
            if expected.shape != output.shape:
                raise Mismatch(f"sizes are constants in the model's code (layer {name} gets another shape)")
            if self.values and not close(expected, output):
                self.wrong.append(name)
            known = torch.empty_like(output)  # in the same memory layout, so that views of it go on working
            known.copy_(expected)
        if self.left:
            self.at = (name, self.left[0].layer)
        return known

    def _known(self, recorded: Product, now: Operands | None) -> Tensor | None:
        """The output, if the input is the recorded one without the channels that are gone."""
        then, full = recorded.operands, recorded.output
        if now is None or then is None or now.settings != then.settings or then.axis != now.axis:
            return None
        weight = self._groups.layers[recorded.layer].weight
        inputs, outputs = (self._kept.get((weight, dim)) for dim in (1 - recorded.dim, recorded.dim))
        shape = list(then.input.shape)
        if inputs is not None:
            shape[then.axis] = len(inputs)
        if list(now.input.shape) != shape:
            return None
        if self.values:
            if then.input._version != then.version:
                return None
            expected = then.input if inputs is None else _rows_of(then.input, then.axis, inputs)
            if not close(expected, now.input, _TOLERANCES.get(now.input.dtype, 2e-2) / 100):
                return None
        return full.clone() if outputs is None else _rows_of(full, then.axis, outputs)

    def _expected(self, recorded: Product, output: Tensor) -> Tensor:
        full, keep = recorded.output, self._rows(recorded)
        axes = [a for a in range(full.ndim) if full.ndim == output.ndim and full.shape[a] != output.shape[a]]
        if keep is None or len(axes) != 1:
            return full
        if output.shape[axes[0]] != len(keep) or keep[-1] >= full.shape[axes[0]]:
            return full
        return _rows_of(full, axes[0], keep)

    def _rows(self, recorded: Product) -> IntArray | None:
        """Which output channels of a product stay, or None if all do."""
        layer = self._groups.layers[recorded.layer]
        keep = self._kept.get((layer.weight, recorded.dim))
        if keep is None or layer.kind == "linear":
            return keep
        if recorded.dim == 1:  # transposed: outputs of one group after the other
            blocks = np.arange(layer.groups)
            return (blocks[:, None] * layer.shape[1] + keep).ravel()
        if layer.kind == "conv_transpose" and layer.groups_follow_channels:
            return (keep[:, None] * layer.shape[1] + np.arange(layer.shape[1])).ravel()
        return keep


class ShapesOfGradients(OperatorMode):  # type: ignore[no-untyped-call]
    """Gradients through products are zeros, one for all places: whether a network gives any is a question of shapes."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is torch.ops.aten.convolution_backward.default:
            wanted = (args[1], args[2], args[0].new_empty(args[0].shape[1:2]))
            return tuple(_zeros(t, t.shape) if want else None for t, want in zip(wanted, args[-1], strict=True))
        if func is torch.ops.aten.mm.default and args[0].shape[1] == args[1].shape[0]:
            return _zeros(args[0], (args[0].shape[0], args[1].shape[1]))
        return func(*args, **(kwargs or {}))


def _zeros(like: Tensor, shape: Sequence[int]) -> Tensor:
    return like.new_zeros([1] * len(shape)).expand(shape)


def _rows_of(tensor: Tensor, axis: int, keep: IntArray) -> Tensor:
    """Some positions along an axis, in the tensor's memory format."""
    rows = tensor.index_select(axis, torch.from_numpy(keep).to(tensor.device))
    return rows.contiguous(memory_format=memory_format(tensor))


def close(a: Tensor, b: Tensor, tolerance: float | None = None) -> bool:
    """Equal up to rounding, relative to the largest value."""
    if a.numel() == 0 or (a.dtype == b.dtype and torch.equal(a, b)):
        return True
    if not a.is_floating_point() and not a.is_complex():
        return bool(torch.equal(a, b))
    tolerance = tolerance or _TOLERANCES.get(a.dtype, 2e-2)
    scale = float(a.abs().max())
    if not np.isfinite(scale):
        return bool(torch.equal(a.isfinite(), b.isfinite())) and close(
            a.nan_to_num(0, 0, 0), b.nan_to_num(0, 0, 0), tolerance
        )
    return float((a - b).abs().max()) <= tolerance * max(scale, 1e-12)
