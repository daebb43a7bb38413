"""Data: digits, arrays, folders and torchvision's sets, cut into disjoint roles."""

from rlprune.data.loading import load_data
from rlprune.data.splits import ROLES, DataSplits, Split

__all__ = ["ROLES", "DataSplits", "Split", "load_data"]
