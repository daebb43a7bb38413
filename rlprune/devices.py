"""Where to compute."""

from __future__ import annotations

import torch

from rlprune.errors import UserError, first_line, unknown_name

KINDS = ("cpu", "cuda", "mps", "xpu")


def checked_device(name: str) -> torch.device:
    """The device called `name`; raises UserError if this machine does not have it."""
    if name.partition(":")[0] not in KINDS:
        raise unknown_name("device", name, KINDS)
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = first_line(error, 120).partition(". ")[0]
        raise UserError(f"device {name!r} cannot be used here ({reason}); try --device cpu") from None
    return device
