"""Filter importance: a criterion scores every unit of every group, and the lowest go first."""

from rlprune.criteria import fpsl, gates, hrank, magnitude, norm_scale, reconstruction, similarity, taylor
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
    "fpsl",
    "gates",
    "get_criterion",
    "hrank",
    "list_criteria",
    "lowest",
    "magnitude",
    "norm_scale",
    "plan_from_counts",
    "reconstruction",
    "similarity",
    "taylor",
]
