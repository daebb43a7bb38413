"""Criteria that ask how replaceable a filter is: the sum of its distances to the others; MSVFP's pair of criteria."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from rlprune.channels import ChannelGroup
from rlprune.criteria.base import CRITERIA, CriterionContext, Scores
from rlprune.criteria.combining import COMBINE, as_scores, combine_layers, unit_rows, weight_slots
from rlprune.criteria.groupwise import NOTHING, Groupwise
from rlprune.criteria.magnitude import L2
from rlprune.errors import check_rate


@CRITERIA.register("similarity")
@dataclass(frozen=True)
class Similarity(Groupwise):
    """s_j = Σ_i |F_j − F_i|_2 over the filters of a layer: filters near the geometric median go first.

    He et al. 2019, *Filter pruning via geometric median* (FPGM), eq. 7; also Ghimire and Kim 2023.

    Attributes:
        combine: How the layers of a group are combined: see `COMBINE`.
    """

    name = "similarity"

    def _group(self, context: CriterionContext, group: ChannelGroup) -> Scores:
        layers = []
        for _, slot in weight_slots(context.groups, group, "out"):
            rows = unit_rows(context.model, slot)
            exact = "donot_use_mm_for_euclid_dist"  # the other way subtracts large numbers
            layers.append(as_scores(torch.cdist(rows, rows, compute_mode=exact).sum(1)))
        return combine_layers(self.combine, layers, group.size)


@CRITERIA.register("msvfp")
@dataclass(frozen=True)
class MSVFP:
    """L2 norm while less than half of the wanted reduction is reached, then similarity.

    Ghimire and Kim 2023, *Magnitude and similarity based variable-rate filter pruning*.

    Attributes:
        target: Share of the MACs that shall go in the end, in [0, 1].
        combine: How the layers of a group are combined: see `COMBINE`.
    """

    target: float = 0.5
    combine: str = "mean"

    name = "msvfp"
    needs = NOTHING

    def __post_init__(self) -> None:
        check_rate("target", self.target)
        COMBINE.get(self.combine)

    def scores(self, context: CriterionContext) -> dict[str, Scores]:
        """The scores of the criterion whose turn it is."""
        early = context.reduction < self.target / 2
        criterion = L2(self.combine) if early else Similarity(self.combine)
        return criterion.scores(context)
