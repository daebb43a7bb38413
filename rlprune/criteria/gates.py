"""Importance weights: a gate on every filter, started at random and learned; the gates are the ranking."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from rlprune.channels import ChannelGroups
from rlprune.criteria.base import CRITERIA, CriterionContext, Scores
from rlprune.criteria.combining import COMBINE, as_scores, combine_layers, weight_slots
from rlprune.errors import UserError
from rlprune.registry import Registry
from rlprune.scoring.evaluation import evaluating
from rlprune.seeding import derive

Initialiser = Callable[[int, int, int, np.random.Generator], Scores]
INITIALISERS: Registry[Initialiser] = Registry("initialiser")
"""Start values of one layer's gates, (count,), given count, fan-in and fan-out of a filter, and a generator."""


@INITIALISERS.register("uniform")
def _uniform(count: int, fan_in: int, fan_out: int, generator: np.random.Generator) -> Scores:
    """Uniform in [0, 1)."""
    return generator.random(count)


@INITIALISERS.register("logistic")
def _logistic(count: int, fan_in: int, fan_out: int, generator: np.random.Generator, r: float = 3.99) -> Scores:
    """The logistic map x <- r x (1 − x), chaotic near r = 4, from a random start after a run-in."""
    x = generator.uniform(0.1, 0.4)
    values = []
    for step in range(count + 100):
        x = r * x * (1 - x)
        if step >= 100:
            values.append(x)
    return np.array(values)


def _normal(variance: Callable[[int, int], float]) -> Initialiser:
    """Normal with a variance that fan-in and fan-out give."""
    return lambda count, fan_in, fan_out, generator: generator.normal(0, math.sqrt(variance(fan_in, fan_out)), count)


INITIALISERS.register("he")(_normal(lambda fan_in, _: 2 / fan_in))  # He et al. 2015
INITIALISERS.register("lecun")(_normal(lambda fan_in, _: 1 / fan_in))  # LeCun et al. 1998
INITIALISERS.register("xavier")(_normal(lambda fan_in, fan_out: 2 / (fan_in + fan_out)))  # Glorot and Bengio 2010


@CRITERIA.register("importance_weights")
@dataclass(frozen=True)
class ImportanceWeights:
    """|a_j| after learning y_j = a_j · (F_j ∗ x) with the filters F held still.

    Sawant et al. 2022, *Additional importance-weight-based filter pruning*. That the update is a gradient step on the
    gate, and what fan-in and fan-out are of a single gate (its filter's), are reconstructed. With untrained gates the
    ranking is chance, so they are warmed up first.

    Attributes:
        initialiser: "uniform", "logistic", "he", "lecun" or "xavier".
        epochs: Passes over the batches to warm the gates up.
        lr: Learning rate of the gates (Adam).
        combine: How the layers of a group are combined: see `COMBINE`.
    """

    initialiser: str = "uniform"
    epochs: int = 1
    lr: float = 0.05
    combine: str = "mean"

    name = "importance_weights"
    needs = frozenset({"data"})

    def __post_init__(self) -> None:
        INITIALISERS.get(self.initialiser)
        COMBINE.get(self.combine)
        if self.epochs < 0 or not 0 < self.lr < math.inf:
            raise UserError(f"epochs is {self.epochs} and lr is {self.lr}; they must be >= 0 and > 0")

    def scores(self, context: CriterionContext) -> dict[str, Scores]:
        """The absolute gates."""
        gates = self.learn(context)
        found = {}
        for group in context.groups.prunable:
            slots = weight_slots(context.groups, group, "out")
            layers = [as_scores(gates[slot.tensor][torch.from_numpy(slot.index)].abs().mean(1)) for _, slot in slots]
            found[group.name] = combine_layers(self.combine, layers, group.size)
        return found

    def learn(self, context: CriterionContext) -> dict[str, Tensor]:
        """Gates of all layers whose filters can go: weight name -> (filters,), 1 for filters of no prunable group."""
        task, batches = context.data(self.name)
        model, device = context.model, next(context.model.parameters()).device
        gates, free = {}, {}
        for name, (dim, positions) in _gated(context.groups).items():
            weight = model.get_parameter(name)
            filters = weight.shape[dim]
            fan_in, receptive = weight.numel() // filters, math.prod(weight.shape[2:])
            generator = np.random.default_rng(derive(context.seed, "gates", name))
            start = INITIALISERS.get(self.initialiser)(filters, fan_in, filters * receptive, generator)
            gate = torch.from_numpy(start).to(device=device, dtype=weight.dtype)
            mask = torch.zeros(filters, dtype=torch.bool, device=device)
            mask[torch.from_numpy(positions).to(device)] = True
            gates[name], free[name] = gate.requires_grad_(), mask
        optimizer = torch.optim.Adam(gates.values(), lr=self.lr)
        caller = _Gated(model, context.groups, gates, free)
        with evaluating(caller):
            for _ in range(self.epochs):
                for batch in batches():
                    optimizer.zero_grad()
                    gradients = torch.autograd.grad(task.loss(caller, batch), list(gates.values()), allow_unused=True)
                    for gate, gradient in zip(gates.values(), gradients, strict=True):
                        gate.grad = gradient
                    optimizer.step()
        return {name: torch.where(free[name], gate.detach(), 1.0) for name, gate in gates.items()}


def fold_gates(model: nn.Module, groups: ChannelGroups, gates: dict[str, Tensor]) -> None:
    """Multiply the gates into the filters and their biases, in place: what the gated network computes."""
    everywhere = {name: torch.ones_like(gate, dtype=torch.bool) for name, gate in gates.items()}
    with torch.no_grad():
        for name, value in _Gated(model, groups, gates, everywhere).weights().items():
            model.get_parameter(name).copy_(value)


class _Gated(nn.Module):
    """A network called with gated filters; its own parameters stay as they are."""

    def __init__(
        self, model: nn.Module, groups: ChannelGroups, gates: dict[str, Tensor], free: dict[str, Tensor]
    ) -> None:
        super().__init__()
        self.network = model  # a submodule, since tasks set the mode of what they are given
        self._gates, self._free = gates, free
        self._biases = {layer.weight: layer.bias for layer in groups.layers.values() if layer.bias is not None}
        self._dims = {name: dim for name, (dim, _) in _gated(groups).items()}

    def weights(self) -> dict[str, Tensor]:
        """The gated weights and biases by name."""
        gated = {}
        for name, gate in self._gates.items():
            weight = self.network.get_parameter(name).detach()
            value = torch.where(self._free[name], gate, 1.0)
            dim = self._dims[name]
            gated[name] = weight * value.view([-1 if d == dim else 1 for d in range(weight.dim())])
            bias = self._biases.get(name)
            if bias is not None and self.network.get_parameter(bias).shape == value.shape:
                gated[bias] = self.network.get_parameter(bias).detach() * value
        return gated

    def forward(self, *arguments: object) -> object:
        return functional_call(self.network, self.weights(), arguments)


def _gated(groups: ChannelGroups) -> dict[str, tuple[int, np.ndarray]]:
    """Weights that hold filters of prunable groups: name -> (axis of the filters, their positions)."""
    found: dict[str, tuple[int, list[np.ndarray]]] = {}
    for group in groups.prunable:
        for _, slot in weight_slots(groups, group, "out"):
            found.setdefault(slot.tensor, (slot.dim, []))[1].append(slot.index.reshape(-1))
    return {name: (dim, np.concatenate(parts)) for name, (dim, parts) in found.items()}
