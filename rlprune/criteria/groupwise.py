"""What criteria share that need the weights alone and score one group after the other."""

from __future__ import annotations

from dataclasses import dataclass

from rlprune.channels import ChannelGroup
from rlprune.criteria.base import CriterionContext, Scores
from rlprune.criteria.combining import COMBINE

NOTHING: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Groupwise:
    """A criterion that scores every group by itself, and combines the group's layers.

    Attributes:
        combine: How the layers of a group are combined: see `COMBINE`.
    """

    combine: str = "mean"

    name = "groupwise"
    needs = NOTHING

    def __post_init__(self) -> None:
        COMBINE.get(self.combine)

    def scores(self, context: CriterionContext) -> dict[str, Scores]:
        """The score of every unit, by group."""
        return {group.name: self._group(context, group) for group in context.groups.prunable}

    def _group(self, context: CriterionContext, group: ChannelGroup) -> Scores:
        raise NotImplementedError
