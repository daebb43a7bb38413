"""Criteria that need the weights alone: the filters' L1 and L2 norms, and chance."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from rlprune.channels import ChannelGroup
from rlprune.criteria.base import CRITERIA, CriterionContext, Scores
from rlprune.criteria.combining import combine_layers, unit_norms, weight_slots
from rlprune.criteria.groupwise import NOTHING, Groupwise
from rlprune.seeding import numpy_generator


@dataclass(frozen=True)
class _Norm(Groupwise):
    """A norm of the filter weights (bias left out); a unit's copies in one layer count as one filter.

    Attributes:
        combine: How the layers of a group are combined: see `COMBINE`.
    """

    name = "norm"

    def _norm(self, rows: Tensor) -> Tensor:
        raise NotImplementedError

    def _group(self, context: CriterionContext, group: ChannelGroup) -> Scores:
        slots = weight_slots(context.groups, group, "out")
        layers = [unit_norms(context.model, slot, self._norm) for _, slot in slots]
        return combine_layers(self.combine, layers, group.size)


@CRITERIA.register("l1")
@dataclass(frozen=True)
class L1(_Norm):
    """|F_j|_1: the sum of the filter's absolute weights (Li et al. 2016, *Pruning Filters for Efficient ConvNets*)."""

    name = "l1"

    def _norm(self, rows: Tensor) -> Tensor:
        return rows.abs().sum(1)


@CRITERIA.register("l2")
@dataclass(frozen=True)
class L2(_Norm):
    """|F_j|_2: the Euclidean norm of the filter (He et al. 2018, *Soft filter pruning*, with p = 2)."""

    name = "l2"

    def _norm(self, rows: Tensor) -> Tensor:
        return rows.square().sum(1).sqrt()


@CRITERIA.register("random")
@dataclass(frozen=True)
class Random:
    """Chance, the control of every criterion: uniform scores that depend on the seed and the group's name alone."""

    name = "random"
    needs = NOTHING

    def scores(self, context: CriterionContext) -> dict[str, Scores]:
        """Uniform in [0, 1)."""
        return {
            group.name: numpy_generator(context.seed, "criterion", "random", group.name).random(group.size)
            for group in context.groups.prunable
        }
