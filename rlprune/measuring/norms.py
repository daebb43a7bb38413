"""What batch norms read: their statistics, averaged anew over calibration images."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from rlprune.errors import guarding
from rlprune.scoring.evaluation import evaluating

Statistics = dict[str, tuple[Tensor, Tensor]]  # mean and variance by module name

_MEND = "give batches of several examples, or a recovery without bn, such as lsq"


def tracking_norms(model: nn.Module) -> Iterator[tuple[str, _BatchNorm]]:
    """Every batch norm that keeps running statistics, and does not have them frozen, with its name."""
    for name, module in model.named_modules():
        if isinstance(module, _BatchNorm) and module.track_running_stats and module.running_mean is not None:
            yield name, module


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
    norms = [norm for _, norm in tracking_norms(model)]
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
                with guarding("batch norms cannot be measured on the calibration data", _MEND):
                    model(*arguments)
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum


@contextmanager
def batch_statistics(model: nn.Module) -> Iterator[None]:
    """Inside, batch norms normalise by the statistics of what they read, and their running ones stay as they are."""
    norms = [norm for _, norm in tracking_norms(model)]
    modes = [norm.training for norm in norms]
    try:
        for norm in norms:
            norm.training, norm.track_running_stats = True, False
        yield
    finally:
        for norm, mode in zip(norms, modes, strict=True):
            norm.training, norm.track_running_stats = mode, True


def running_statistics(model: nn.Module) -> Statistics:
    """The running mean and variance of every batch norm that keeps them."""
    return {
        name: (norm.running_mean, norm.running_var)
        for name, norm in tracking_norms(model)
        if norm.running_mean is not None and norm.running_var is not None
    }


@torch.no_grad()
def measure_bn(model: nn.Module, calls: Iterable[tuple[Any, ...]]) -> Statistics:
    """Mean and variance of what every batch norm of `model` reads; the model is left as it was.

    Args:
        model: Any network.
        calls: Its positional arguments, a tuple a batch.
    """
    buffers = [buffer for _, norm in tracking_norms(model) for buffer in norm.buffers(recurse=False)]
    former = [buffer.clone() for buffer in buffers]
    try:
        recalibrate_bn(model, calls)
        return {name: (mean.clone(), var.clone()) for name, (mean, var) in running_statistics(model).items()}
    finally:
        for buffer, value in zip(buffers, former, strict=True):
            buffer.copy_(value)
