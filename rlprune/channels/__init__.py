"""The channel engine: which channels are coupled, and how to take them out."""

from rlprune.channels.groups import ChannelGroup, ChannelGroups, Layer, LockReport, Slot
from rlprune.channels.plan import PruningPlan

__all__ = ["ChannelGroup", "ChannelGroups", "Layer", "LockReport", "PruningPlan", "Slot"]
