"""The channel engine: which channels are coupled, and how to take them out."""

from rlprune.channels.groups import ChannelGroup, ChannelGroups, Layer, LockReport, Slot
from rlprune.channels.plan import PruningPlan
from rlprune.channels.surgery import mask_channels, remove_channels
from rlprune.channels.tracing import trace_channels
from rlprune.channels.transplant import transplant

__all__ = [
    "ChannelGroup",
    "ChannelGroups",
    "Layer",
    "LockReport",
    "PruningPlan",
    "Slot",
    "mask_channels",
    "remove_channels",
    "trace_channels",
    "transplant",
]
