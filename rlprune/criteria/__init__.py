"""Filter importance: a criterion scores every unit of every group, and the lowest go first."""

from rlprune.criteria import magnitude
from rlprune.criteria.base import (
    CRITERIA,
    Criterion,
    CriterionContext,
    get_criterion,
    list_criteria,
    lowest,
    plan_from_counts,
)
from rlprune.criteria.combining import COMBINE

__all__ = [
    "COMBINE",
    "CRITERIA",
    "Criterion",
    "CriterionContext",
    "get_criterion",
    "list_criteria",
    "lowest",
    "magnitude",
    "plan_from_counts",
]
