"""Masked and removed network in lockstep: at every product with a weight their outputs are compared.

The removed network goes on with the masked one's values. So rounding never adds up, a data-dependent choice (a
detector's proposals) is the same in both, and a difference names the layer it enters. Random numbers are the same for
both, too: every draw is one number, whatever its shape.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rlprune.channels.forward import OperatorMode
from rlprune.channels.groups import ChannelGroups
from rlprune.channels.plan import PruningPlan
from rlprune.channels.units import IntArray, Layer

DIFFERS = "removing a channel changes more than that channel"
_PRODUCTS = {"convolution": (1,), "_convolution": (1,), "deform_conv2d": (1,), "mm": (0, 1), "bmm": (0, 1),
             "linear": (1,), "addmm": (1, 2), "baddbmm": (1, 2)}  # fmt: skip
_TOLERANCES = {torch.float64: 1e-7, torch.float32: 1e-4}


class Mismatch(RuntimeError):
    """The removed network departs from the masked one's path or shapes."""


@dataclass(frozen=True)
class Product:
    """One executed product with a weight: the layer, the parameter's dimension that its outputs are, its result."""

    layer: str
    dim: int
    output: Tensor


class _Watch(OperatorMode):
    """Sees every product with a weight of the model, and makes draws of random numbers independent of shapes."""

    def __init__(self, model: nn.Module, groups: ChannelGroups) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._by_weight = {layer.weight: layer for layer in groups.layers.values()}
        self._weights = {p.untyped_storage()._cdata: n for n, p in model.named_parameters() if n in self._by_weight}
        self._parameters = dict(model.named_parameters())
        self._draws = 0
        self.steps = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        self.steps += 1
        name = func._schema.name.split("::")[-1]
        if torch.Tag.nondeterministic_seeded in func.tags:
            return self._drawn(name, args, kwargs, func(*args, **kwargs))
        for place in _PRODUCTS.get(name, ()):
            weight = self._weights.get(args[place].untyped_storage()._cdata)
            if weight is not None:
                layer = self._by_weight[weight]
                dim = self._output_dim(name, args, place, layer, self._parameters[weight])
                return self.product(layer.name, dim, lambda: func(*args, **kwargs))
        return func(*args, **kwargs)

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
        if isinstance(out, Tensor) and name.startswith("bernoulli"):
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

    def product(self, name: str, dim: int, run: Callable[[], Tensor]) -> Tensor:
        """One product with the weight of a layer."""
        raise NotImplementedError


_UNIFORM = ("rand", "rand_like", "uniform", "exponential")
_NORMAL = ("randn", "randn_like", "normal")


class Record(_Watch):  # type: ignore[no-untyped-call]
    """Keeps every product of the masked network."""

    def __init__(self, model: nn.Module, groups: ChannelGroups) -> None:
        super().__init__(model, groups)
        self.products: list[Product] = []

    def product(self, name: str, dim: int, run: Callable[[], Tensor]) -> Tensor:
        """Keep it."""
        output = run()
        self.products.append(Product(name, dim, output.detach().clone()))  # in-place activations follow
        return output


class Follow(_Watch):  # type: ignore[no-untyped-call]
    """Compares each product of the removed network with the recorded one, and goes on with that one."""

    def __init__(
        self, model: nn.Module, groups: ChannelGroups, plan: PruningPlan, products: list[Product] | None
    ) -> None:
        super().__init__(model, groups)
        self.left = products
        self.wrong: list[str] = []
        self.at: tuple[str, ...] = ()
        self._kept = groups.kept(plan)
        self._groups = groups

    def product(self, name: str, dim: int, run: Callable[[], Tensor]) -> Tensor:
        """Compare it."""
        if self.left is None:  # an approximate removal: there is nothing to compare
            self.at = (name,)
            return run()
        if not self.left or self.left[0].layer != name:
            self.at = (name,)
            raise Mismatch("the smaller network runs its layers in another order")
        self.at = (name,)
        output = run()
        recorded = self.left.pop(0)
        expected = self._expected(recorded, output)
        if expected.shape != output.shape:
            raise Mismatch(f"sizes are constants in the model's code (layer {name} gets another shape)")
        if not close(expected, output):
            self.wrong.append(name)
        if self.left:
            self.at = (name, self.left[0].layer)
        result = torch.empty_like(output)  # in the same memory layout, so that views of it go on working
        result.copy_(expected)
        return result

    def _expected(self, recorded: Product, output: Tensor) -> Tensor:
        full, keep = recorded.output, self._rows(recorded)
        axes = [a for a in range(full.ndim) if full.ndim == output.ndim and full.shape[a] != output.shape[a]]
        if keep is None or len(axes) != 1:
            return full
        if output.shape[axes[0]] != len(keep) or keep[-1] >= full.shape[axes[0]]:
            return full
        return full.index_select(axes[0], torch.from_numpy(keep).to(full.device))

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


def close(a: Tensor, b: Tensor, tolerance: float | None = None) -> bool:
    """Equal up to rounding, relative to the largest value."""
    if a.numel() == 0:
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
