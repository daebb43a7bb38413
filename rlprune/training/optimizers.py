"""The optimizers that settings name."""

from __future__ import annotations

import inspect
from functools import cache
from typing import Any

import torch
from torch import nn

from rlprune.errors import UserError
from rlprune.training.settings import TrainSettings


def make_optimizer(model: nn.Module, settings: TrainSettings) -> torch.optim.Optimizer:
    """The optimizer of the settings over all parameters that want a gradient; raises UserError if none does."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    if not parameters:
        raise UserError("no parameter of this network wants a gradient; set requires_grad on those to train")
    fused = all(p.is_floating_point() and p.device.type in ("cpu", "cuda") for p in parameters)  # one call a step
    given: dict[str, Any] = {"lr": settings.lr, "weight_decay": settings.weight_decay, "fused": fused}
    kind: Any = torch.optim.AdamW
    if settings.optimizer != "adamw":
        kind, given = torch.optim.SGD, {**given, "momentum": settings.momentum, "nesterov": settings.nesterov}
    optimizer: torch.optim.Optimizer = _uncompiled(kind)(parameters, **given)
    return optimizer


@cache
def _uncompiled(kind: Any) -> Any:
    """The optimizer without the wrappers that import torch's compiler: two seconds and 150 MB, to compile nothing."""
    names = ("add_param_group", "zero_grad", "state_dict", "load_state_dict")
    bare = {name: inspect.unwrap(getattr(kind, name)) for name in names}
    return type(kind.__name__, (kind,), {**bare, "step": torch.no_grad()(inspect.unwrap(kind.step))})
