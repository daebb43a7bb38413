"""FPSL: a filter matters as much as it is large and as what reads it is large."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rlprune.channels import ChannelGroup
from rlprune.criteria.base import CRITERIA, CriterionContext, Scores
from rlprune.criteria.combining import as_scores, combine_layers, unit_rows, weight_slots
from rlprune.criteria.groupwise import Groupwise


@CRITERIA.register("fpsl")
@dataclass(frozen=True)
class FPSL(Groupwise):
    """|F_j|_1 · |C_j|_1 / N: the filter's norm times its readers', over the layer's width.

    Mondal et al. 2023, *Filter pruning by successive layers analysis*. In expand–depthwise–project blocks the depthwise
    filter's norm is a third factor. Batch norm is ignored. Several consumers are summed, which is our choice. The
    score does not change when a filter is scaled up and its readers down by the same factor, and it compares filters
    of different layers.

    Attributes:
        combine: How several producers of one group (residual sums) are combined: see `COMBINE`.
    """

    name = "fpsl"

    def _group(self, context: CriterionContext, group: ChannelGroup) -> Scores:
        dense, factor = [], np.ones(group.size)
        for layer, slot in weight_slots(context.groups, group, "out"):
            norm = as_scores(unit_rows(context.model, slot).abs().sum(1))
            if layer.groups > 1 and layer.groups_follow_channels:
                factor = factor * norm  # a depthwise filter makes its channel from the same channel
            else:
                dense.append(norm)
        readers = [
            as_scores(unit_rows(context.model, slot).abs().sum(1))
            for _, slot in weight_slots(context.groups, group, "in")
        ]
        if readers:
            factor = factor * np.sum(readers, axis=0)
        return combine_layers(self.combine, dense, group.size) * factor / group.size
