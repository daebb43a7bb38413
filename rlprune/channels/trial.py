"""The self-check on smaller images, which is enough where the network does the same on them and nothing fails.

Whatever fails, and networks that do otherwise on smaller images, are left to the check on the example inputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

import torch
from torch import nn

from rlprune.channels.attributes import Choice
from rlprune.channels.checking import Checker
from rlprune.channels.comparing import Difference
from rlprune.channels.forward import Forward, Step, tensors_in
from rlprune.channels.groups import ChannelGroups
from rlprune.channels.plan import PruningPlan
from rlprune.channels.trace import Trace

LARGE = 192  # pixels of an image's sides, of which fewer show as much


def passing(
    model: nn.Module, groups: ChannelGroups, forward: Forward, choices: Sequence[Choice], trace: Trace
) -> ChannelGroups | None:
    """What `check_groups` gives, if all groups pass on smaller images; None where only the example inputs can tell.

    That is also where the forward pass read one of the numbers that may follow: it may stand for an image's size.
    """
    images = smaller(forward)
    if images is None or any((choice.module, choice.name) in trace.reads for choice in choices):
        return None
    with suppress(Exception):
        trial = _Trial(model, groups, images, choices)
        if trial.goes(trace.path):
            trial.settle()
            return groups.with_attributes(trial.groups.attributes)
    return None


def smaller(forward: Forward) -> Forward | None:
    """Images of about half the size, in multiples of 32 pixels; None if the inputs are other than large images."""
    tensors = tensors_in((forward.args, dict(forward.kwargs)))
    if not tensors or not all(t.ndim == 4 and t.is_floating_point() and min(t.shape[2:]) >= LARGE for t in tensors):
        return None
    return forward.changed(lambda t: nn.functional.interpolate(t, [size // 64 * 32 for size in t.shape[2:]]))


class _Fails(RuntimeError):
    """Something does."""


class _Trial(Checker):
    """Ends at the first failure."""

    def goes(self, path: Sequence[Step]) -> bool:
        """Whether the network at full size runs what a trace did."""
        self._full(self.model, self.forward)
        return same_way(path, self.path)

    def compare(self, plan: PruningPlan, values: bool = True) -> Difference | None:
        """None.

        Raises:
            _Fails: masked does not equal removed.
        """
        if super().compare(plan, values) is not None:
            raise _Fails
        return None

    def runs(self) -> bool:
        """True.

        Raises:
            _Fails: the network does not run in training mode.
        """
        if not super().runs():
            raise _Fails
        return True

    def follow_more(self) -> None:
        """No numbers are tried."""


def same_way(large: Sequence[Step], small: Sequence[Step]) -> bool:
    """Whether two passes ran the same operators, on tensors that vary along the same axes, if less in the second."""
    return len(large) == len(small) and all(
        a is b and (p == q or (p is not None and q is not None and _same_axes(p, q)))
        for (a, p), (b, q) in zip(large, small, strict=True)
    )


def _same_axes(large: torch.Size, small: torch.Size) -> bool:
    return len(large) == len(small) and all(m == n or n > m > 1 for n, m in zip(large, small, strict=True))
