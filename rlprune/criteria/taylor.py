"""Taylor expansion: how much the loss would change, to first order, if a gate behind the filter closed."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from rlprune.channels import ChannelGroup, ChannelGroups, Slot
from rlprune.criteria.base import CRITERIA, CriterionContext, Scores
from rlprune.criteria.combining import COMBINE, combine_layers
from rlprune.errors import UserError
from rlprune.measuring.following import following_norms
from rlprune.scoring.evaluation import evaluating


@CRITERIA.register("taylor")
@dataclass(frozen=True)
class Taylor:
    """(∂E/∂z_j)² averaged over all batches, z being a gate of value 1 behind the batch norm.

    Molchanov et al. 2019, *Importance estimation for neural network pruning*, eq. 8, "Taylor-FO-BN". A gate on
    γ·x̂ + β has the gradient γ·∂E/∂γ + β·∂E/∂β, and one on a layer without a norm w·∂E/∂w + b·∂E/∂b, so no gate has
    to be put in. The network is in eval mode.

    Attributes:
        combine: How the gates of one group are combined: see `COMBINE`. Changes of the loss add up.
    """

    combine: str = "sum"

    name = "taylor"
    needs = frozenset({"data"})

    def __post_init__(self) -> None:
        COMBINE.get(self.combine)

    def scores(self, context: CriterionContext) -> dict[str, Scores]:
        """The mean squared gradient of every gate."""
        task, batches = context.data(self.name)
        model, groups = context.model, context.groups
        names = {layer for group in groups.prunable for layer in group.producers}
        first = next(iter(batches()), None)
        if first is None:
            raise UserError("criterion 'taylor' got no images; give at least one batch")
        norms = following_norms(model, names, task.inputs(first))
        gates = {group.name: list(gates_of(model, groups, group, norms)) for group in groups.prunable}
        sums = {name: [np.zeros(groups[name].size) for _ in found] for name, found in gates.items()}
        parameters = dict(model.named_parameters())
        used = sorted({slot.tensor for found in gates.values() for gate in found for slot in gate})
        count = 0
        with evaluating(model), wanting_gradients(model, used):
            for batch in batches():
                loss = task.loss(model, batch)
                gradients = torch.autograd.grad(loss, [parameters[name] for name in used], allow_unused=True)
                product = {
                    name: parameters[name].detach().double() * gradient.double()
                    for name, gradient in zip(used, gradients, strict=True)
                    if gradient is not None
                }
                for name, found in gates.items():
                    for total, gate in zip(sums[name], found, strict=True):
                        total += _gate_gradient(product, gate, groups[name].size) ** 2
                count += 1
        return {
            name: combine_layers(self.combine, (total / count for total in totals), groups[name].size)
            for name, totals in sums.items()
        }


def gates_of(
    model: nn.Module, groups: ChannelGroups, group: ChannelGroup, norms: dict[str, str]
) -> Iterator[tuple[Slot, ...]]:
    """For every producer of a group: the slots of the parameters that a gate behind it scales."""
    parameters = dict(model.named_parameters())
    for producer in group.producers:
        layer = groups.layers[producer]
        norm = norms.get(producer)
        wanted = {f"{norm}.weight", f"{norm}.bias"} if f"{norm}.weight" in parameters else {layer.weight, layer.bias}
        slots = tuple(s for s in group.slots if s.tensor in wanted and s.role in ("out", "norm"))
        if slots:
            yield slots


def _gate_gradient(product: dict[str, Tensor], gate: tuple[Slot, ...], size: int) -> Scores:
    """Σ parameter · gradient over everything that belongs to each unit."""
    total = np.zeros(size)
    for slot in gate:
        if slot.tensor in product:
            values = product[slot.tensor]
            channels = values.movedim(slot.dim, 0).reshape(values.shape[slot.dim], -1).sum(1).cpu().numpy()
            total += channels[slot.index].sum(1)
    return total


@contextmanager
def wanting_gradients(model: nn.Module, names: Collection[str]) -> Iterator[None]:
    """Let the named parameters, and no others, want gradients; put everything back afterwards."""
    wanted = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in names)
    try:
        yield
    finally:
        for parameter, before in wanted:
            parameter.requires_grad_(before)
