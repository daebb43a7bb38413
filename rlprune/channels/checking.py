"""The self-check: a removed network must compute what the masked one computes, or the group is locked.

One unit of every unlocked group is removed at once and the result compared with the masked network, then about a
third of every group; only if something differs is the set of groups halved until the culprits are found.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from rlprune.channels.groups import ChannelGroups
from rlprune.channels.plan import PruningPlan
from rlprune.channels.surgery import mask_channels, remove_channels
from rlprune.channels.tracing import Forward, tensors_in
from rlprune.errors import UserError
from rlprune.seeding import numpy_generator, torch_generator

CHECKS = ("on", "strict", "off")
TOLERANCE = 1e-4


def check_groups(model: nn.Module, groups: ChannelGroups, forward: Forward, strict: bool = False) -> ChannelGroups:
    """The groups with every one locked whose removal would not equal its masking on the example inputs.

    Raises:
        UserError: in strict mode, listing the groups that fail and why.
    """
    checker = _Checker(model, groups, forward)
    failed = checker.failures()
    if failed and strict:
        lines = "; ".join(f"{name}: {reason}" for name, reason in failed.items())
        raise UserError(f"{len(failed)} channel groups fail the self-check ({lines}); lock them with keep=")
    return groups.with_locks(failed)


class _Checker:
    def __init__(self, model: nn.Module, groups: ChannelGroups, forward: Forward) -> None:
        self.model = shaken(model)
        self.groups = groups
        self.forward = forward
        self.passes = 0

    def failures(self) -> dict[str, str]:
        names = [group.name for group in self.groups.prunable if group.max_removable]
        failed: dict[str, str] = {}
        for share in (0.0, 0.3):
            failed.update(self._search([n for n in names if n not in failed], share))
        return failed

    def _search(self, names: list[str], share: float) -> dict[str, str]:
        if not names:
            return {}
        reason = self.compare(self.plan(names, share))
        if reason is None:
            return {}
        if len(names) == 1:
            return {names[0]: reason}
        half = len(names) // 2
        failed = {**self._search(names[:half], share), **self._search(names[half:], share)}
        return failed or dict.fromkeys(names, f"with others, {reason}")

    def plan(self, names: Sequence[str], share: float) -> PruningPlan:
        """One unit (share 0) or a share of the units of each group, chosen by the group's name."""
        removed = {}
        for name in names:
            group = self.groups[name]
            count = group.allowed(max(1, round(share * group.size)))
            if not count and share == 0.0:  # rounding: the smallest step that is allowed
                count = next(c for c in range(1, group.size) if group.allowed(c))
            chosen = numpy_generator(0, "check", name, str(share)).permutation(group.size)[:count]
            removed[name] = chosen.tolist()
        return PruningPlan(removed)

    def compare(self, plan: PruningPlan) -> str | None:
        """None if masked equals removed, else what is wrong, in words."""
        self.passes += 2
        masked = self.run(mask_channels(self.model, self.groups, plan))
        try:
            removed = self.run(remove_channels(self.model, self.groups, plan))
        except Exception as error:
            text = " ".join(str(error).split())[:160]
            return f"the smaller network does not run, sizes are constants in the model's code ({text})"
        if len(masked) != len(removed):
            return "the smaller network gives another number of outputs"
        for a, b in zip(masked, removed, strict=True):
            if a.shape != b.shape:
                return f"the smaller network's output has shape {tuple(b.shape)}, not {tuple(a.shape)}"
            if not close(a, b):
                return "removing a channel changes more than that channel: masked and removed outputs differ"
        return None

    def run(self, model: nn.Module) -> list[Tensor]:
        with torch.no_grad():
            return tensors_in(self.forward(model))


def close(a: Tensor, b: Tensor, tolerance: float = TOLERANCE) -> bool:
    """Equal up to rounding, relative to the largest value."""
    if a.numel() == 0:
        return True
    if not a.is_floating_point():
        return bool(torch.equal(a, b))
    a, b = a.double(), b.double()
    scale = float(a.abs().max())
    return float((a - b).abs().max()) <= tolerance * max(scale, 1e-6)


def shaken(model: nn.Module) -> nn.Module:
    """A copy in evaluation mode with random normalisation statistics, so that fresh initial values hide nothing."""
    copied = copy.deepcopy(model).eval()
    generator = torch_generator(0, "check", "statistics")
    with torch.no_grad():
        for name, tensor in [*copied.named_parameters(), *copied.named_buffers()]:
            if tensor.ndim == 1 and tensor.is_floating_point() and tensor.numel() > 1:
                noise = torch.rand(tensor.shape, generator=generator).to(tensor)
                if name.endswith("running_var"):
                    tensor.mul_(0.5 + noise)
                elif float(tensor.abs().max()) == 0.0:
                    tensor.add_((noise - 0.5) * 0.2)
                else:
                    tensor.mul_(0.75 + 0.5 * noise)
    return copied
