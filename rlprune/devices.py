"""Where to compute."""

from __future__ import annotations

import torch

from rlprune.errors import UserError


def checked_device(name: str) -> torch.device:
    """The device called `name`; raises UserError if this machine does not have it."""
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(
            f"device {name!r} cannot be used here ({str(error).splitlines()[0]}); try --device cpu"
        ) from None
    return device
