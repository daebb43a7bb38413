"""The scale that batch norm learned for a channel."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from rlprune.channels import ChannelGroup, Slot
from rlprune.criteria.base import CRITERIA, CriterionContext, Scores
from rlprune.criteria.combining import as_scores, combine_layers, unit_rows
from rlprune.criteria.groupwise import Groupwise
from rlprune.criteria.magnitude import L1


@CRITERIA.register("bn_scale")
@dataclass(frozen=True)
class NormScale(Groupwise):
    """|γ_j| of the batch norm behind the filter (Liu et al. 2017, *Network slimming*, section 3).

    It means something where the scales were trained under an L1 penalty. A group without a norm is ranked by L1.

    Attributes:
        combine: How several norms of one group are combined: see `COMBINE`.
    """

    name = "bn_scale"

    def _group(self, context: CriterionContext, group: ChannelGroup) -> Scores:
        slots = norm_scale_slots(context.model, group)
        if not slots:
            return L1(self.combine)._group(context, group)
        layers = [as_scores(unit_rows(context.model, slot).abs().sum(1)) for slot in slots]
        return combine_layers(self.combine, layers, group.size)


def norm_scale_slots(model: nn.Module, group: ChannelGroup) -> list[Slot]:
    """The slots of a group that are scales of batch or instance norms or of group norms."""
    found = []
    for slot in group.slots:
        name, _, leaf = slot.tensor.rpartition(".")
        if (
            slot.role == "norm"
            and leaf == "weight"
            and isinstance(model.get_submodule(name), (_NormBase, nn.GroupNorm))
        ):
            found.append(slot)
    return found
