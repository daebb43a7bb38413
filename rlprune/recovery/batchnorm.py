"""Batch-norm recalibration: statistics of the pruned network instead of those of the one it came from."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from rlprune.scoring.evaluation import evaluating


@torch.no_grad()
def recalibrate_bn(model: nn.Module, calls: Iterable[tuple[Any, ...]]) -> None:
    """Reset the running statistics of every batch norm and average them anew over `calls`.

    The average is cumulative (every batch weighs the same), weights do not move, dropout and the like stay in eval
    mode, and a frozen batch norm (one without running statistics to update) is left alone. With no calls nothing is
    reset.

    Args:
        model: Any network; changed in place.
        calls: The model's positional arguments, a tuple a batch. A few hundred images do.
    """
    norms = [
        m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats and m.running_mean is not None
    ]
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    try:
        with evaluating(model):
            for n, arguments in enumerate(calls):
                if n == 0:
                    for norm in norms:
                        norm.reset_running_stats()
                        norm.momentum = None  # cumulative average
                        norm.train()
                model(*arguments)
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
