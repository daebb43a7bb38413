"""The channel engine: which channels are coupled, and how to take them out."""

from rlprune.channels.groups import ChannelGroups, LockReport
from rlprune.channels.plan import PruningPlan
from rlprune.channels.surgery import mask_channels, remove_channels
from rlprune.channels.tracing import trace_channels
from rlprune.channels.transplant import transplant
from rlprune.channels.units import KINDS, ChannelGroup, Layer, Slot, check_kinds

__all__ = [
    "KINDS",
    "ChannelGroup",
    "ChannelGroups",
    "Layer",
    "LockReport",
    "PruningPlan",
    "Slot",
    "check_kinds",
    "mask_channels",
    "remove_channels",
    "trace_channels",
    "transplant",
]
