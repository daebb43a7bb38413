"""Importance weights: a learned gate on every filter; small gates go, as long as the loss bears it.

Sawant et al. 2022, *Additional importance-weight-based filter pruning*. That the update is a gradient step on the gates
of y_j = a_j · (F_j ∗ x), the warm-up, and the threshold as a quantile are reconstructed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
import torch
from torch import Tensor

from rlprune.agents.controllers.base import RoundRule
from rlprune.agents.controllers.images import FixedImages
from rlprune.agents.controllers.rounds import Scores, aimed, counts_of, first_to_meet, global_order
from rlprune.channels import ChannelGroups
from rlprune.channels.copying import duplicate
from rlprune.criteria import CriterionContext, plan_from_counts
from rlprune.criteria.combining import as_scores, combine_layers, weight_slots
from rlprune.criteria.gates import ImportanceWeights, fold_gates
from rlprune.errors import UserError, check_count, check_rate
from rlprune.network import Network
from rlprune.problem import PruningProblem
from rlprune.scoring.evaluation import evaluating

Gates = dict[str, Tensor]


def gate_gradient(problem: PruningProblem, network: Network, gates: Gates, images: FixedImages) -> Gates:
    """dL/da of the mean loss of the gated network, with the filters held still: weight name -> (filters,).

    By the chain rule it is the inner product of the loss's gradient at the gated filter with the filter (and bias).
    """
    gated = duplicate(network.model)
    fold_gates(gated, network.groups, gates)
    layers = [layer for layer in network.groups.layers.values() if layer.weight in gates]
    names = [layer.weight for layer in layers]
    biased = {x.weight: x.bias for x in layers if x.bias is not None}
    wanted = [gated.get_parameter(name).requires_grad_() for name in [*names, *biased.values()]]
    sums = [torch.zeros_like(tensor) for tensor in wanted]
    with evaluating(gated):
        for batch in images.batches():
            loss = problem.task.loss(gated, batch) * (problem.task.size(batch) / len(images))
            for total, part in zip(sums, torch.autograd.grad(loss, wanted, allow_unused=True), strict=True):
                if part is not None:
                    total += part
    by_name = dict(zip([*names, *biased.values()], sums, strict=True))
    found = {}
    for layer in layers:
        axis = 1 if layer.kind == "conv_transpose" else 0
        product = by_name[layer.weight] * network.model.get_parameter(layer.weight).detach()
        gradient = product.movedim(axis, 0).flatten(1).sum(1)
        if layer.bias is not None and gradient.shape == by_name[layer.bias].shape:
            gradient = gradient + by_name[layer.bias] * network.model.get_parameter(layer.bias).detach()
        found[layer.weight] = gradient
    problem.ledger.images_trained += len(images)
    return found


def gate_scores(gates: Gates, groups: ChannelGroups) -> Scores:
    """|a| of every unit by group; coupled layers are combined as the criterion `importance_weights` does."""
    found = {}
    for group in groups.prunable:
        slots = weight_slots(groups, group, "out")
        layers = [as_scores(gates[slot.tensor].cpu()[torch.from_numpy(slot.index)].abs().mean(1)) for _, slot in slots]
        found[group.name] = combine_layers("mean", layers, group.size)
    return found


@dataclass
class GateThreshold(RoundRule):
    """Round by round: sort the gates, cut below a threshold, look at the loss, update the gates.

    The gates are the ranking; they take the place of the environment's criterion, and they live on from round to round.

    Attributes:
        initialiser: Start values of the gates: `uniform`, `logistic`, `he`, `lecun` or `xavier`.
        warmup_epochs: Passes over the images that train the random gates before the first cut.
        gate_lr: Learning rate of that training (Adam).
        images: Training images that the gates and the loss see; the whole train role if there are no more.
        share: A round's threshold is this quantile of all gates.
        epsilon: Largest increase of the loss that one round's removal may cause; more ends the pruning.
        update_lr: Step of the gates' update, relative to the gradient's largest entry.
        fold: Multiply the gates into the filters at the end, if the network scores no worse with them.
    """

    initialiser: str = "uniform"
    warmup_epochs: int = 1
    gate_lr: float = 0.05
    images: int = 10000
    share: float = 0.05
    epsilon: float = 0.1
    update_lr: float = 0.01
    fold: bool = True

    def __post_init__(self) -> None:
        check_rate("share", self.share)
        for name in ("epsilon", "update_lr"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise UserError(f"{name} is {getattr(self, name)}; it must be a finite number >= 0")
        check_count("images", self.images)
        self._criterion = ImportanceWeights(self.initialiser, self.warmup_epochs, self.gate_lr)
        self._gates: Gates = {}

    def bind(self, env: gymnasium.Env[Any, Any]) -> None:
        """Start in this environment."""
        super().bind(env)
        self._gates = {}
        self._images = FixedImages(self.env.problem, self.images, seed=self.env.rules.seed, batch_size=128)

    def state_dict(self) -> dict[str, Any]:
        """The gates of all filters of the unpruned network."""
        return {"gates": {name: gate.detach().cpu().clone() for name, gate in self._gates.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict`'s result."""
        self._gates = {name: gate.to(self.env.problem.device) for name, gate in state["gates"].items()}

    def plan(self) -> dict[str, int]:
        """What lies below the threshold, unless the loss rises by more than epsilon."""
        env = self.env
        images = self._images
        if not self._gates:
            self._gates = self._warmed(images)
        else:
            self._update(images)
        gates = self._current(env.network)
        scores = gate_scores(gates, env.network.groups)
        env.rank(scores)
        order = global_order(env, scores)
        if aimed(env):
            return counts_of(order[: first_to_meet(env, order)])
        number = int(self.share * sum(group.size for group in env.prunable) + 1e-9)
        counts: dict[str, int] = {}
        while number and not any(counts.values()) and number <= len(order):  # more, where `round_to` leaves nothing
            counts, number = env.feasible(counts_of(order[:number])), number + 1
        if not any(counts.values()) or self._increase(counts, gates, images) > self.epsilon:
            return {}
        return counts

    def finish(self, network: Network) -> Network:
        """The network with its gates folded in."""
        folded = network.copy()
        if self.fold and self._gates:
            fold_gates(folded.model, network.groups, self._current(network))
        return folded

    def _warmed(self, images: FixedImages) -> Gates:
        problem, network = self.env.problem, self.env.network
        problem.ledger.images_trained += self.warmup_epochs * len(images)
        return self._criterion.learn(
            CriterionContext(
                network.model, network.groups, seed=self.env.rules.seed, task=problem.task, batches=images.batches
            )
        )

    def _kept(self, network: Network, name: str) -> Tensor:
        """Which filters of the unpruned network's weight `name` are left, as a mask."""
        base = self.env.problem.groups
        kept = torch.ones(len(self._gates[name]), dtype=torch.bool)
        for (tensor, dim), gone in base.removed_positions(network.plan).items():
            if (tensor, dim) == (name, self._axis(name)):
                kept[torch.from_numpy(np.asarray(gone))] = False
        return kept.to(self._gates[name].device)

    def _axis(self, name: str) -> int:
        layer = next(x for x in self.env.problem.groups.layers.values() if x.weight == name)
        return 1 if layer.kind == "conv_transpose" else 0

    def _current(self, network: Network) -> Gates:
        """The gates of the filters that are left."""
        return {name: gate[self._kept(network, name)] for name, gate in self._gates.items()}

    def _update(self, images: FixedImages) -> None:
        """A gradient step on the gates, scaled by the gradient's largest entry."""
        env = self.env
        gradient = gate_gradient(env.problem, env.network, self._current(env.network), images)
        largest = max(float(part.abs().max()) for part in gradient.values())
        for name, part in gradient.items():
            kept = self._kept(env.network, name)
            gate = self._gates[name].clone()
            gate[kept] -= self.update_lr * part / max(largest, 1e-12)
            self._gates[name] = gate

    def _increase(self, counts: Mapping[str, int], gates: Gates, images: FixedImages) -> float:
        """How much the gated network's loss rises when `counts` go."""
        env = self.env
        plan = plan_from_counts(env.network.groups, env.scores, counts)
        gated = env.network.copy()
        fold_gates(gated.model, env.network.groups, gates)
        pruned = gated.remove(plan, env.problem.groups)
        return images.loss(pruned.model) - images.loss(gated.model)
