"""Regression: numbers of any shape; R² or a negative error."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F

from rlprune.errors import UserError, check_known
from rlprune.tasks.base import TASKS, OutputTask, single_output

LOSSES = {"mse": F.mse_loss, "l1": F.l1_loss}


@TASKS.register("regression")
@dataclass(frozen=True)
class Regression(OutputTask):
    """Numbers for every example, in any shape; a target that is NaN is not known, and counts nowhere.

    Attributes:
        metric: "r2": the share of the targets' variance that is explained, over all outputs together (each around its
            own mean), at most 1; "mse" or "mae": then the score is the negative mean squared or absolute error.
        objective: What training minimises: "mse" or "l1".
        name: Name of the task.
    """

    metric: str = "r2"
    objective: str = "mse"
    name: ClassVar[str] = "regression"
    percent = False
    single: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_known("metric of regression", self.metric, ("r2", "mse", "mae"))
        check_known("objective of regression", self.objective, LOSSES)

    def output(self, returned: Any, targets: torch.Tensor) -> torch.Tensor:
        """Numbers in the shape of the targets."""
        return as_targets(single_output(returned), targets, self.name)

    def loss_of(self, output: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Mean squared or absolute error."""
        return LOSSES[self.objective](*known(output, targets))

    def examples(self, output: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Of each example the error; for R² the squared error, and the targets."""
        wanted = targets.double().flatten(1) if targets.ndim > 1 else targets.double()[:, None]
        error = output.double().reshape(wanted.shape) - wanted
        if self.metric == "mae":
            return -error.abs().nanmean(1)
        if self.metric == "mse":
            return -error.square().nanmean(1)
        return torch.cat((error.square().nansum(1, keepdim=True), wanted), dim=1)

    def measure(self, table: np.ndarray) -> float:
        """R², 0 where the targets do not vary; or the negative error."""
        if self.metric != "r2":
            return float(table[~np.isnan(table)].mean()) if not np.isnan(table).all() else math.nan
        wanted = table[:, 1:]
        mean = np.nansum(wanted, axis=0) / np.maximum((~np.isnan(wanted)).sum(axis=0), 1)
        spread = float(np.nansum(np.square(wanted - mean)))
        return 1.0 - float(table[:, 0].sum()) / spread if spread > 0 else 0.0


def known(output: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Outputs and targets, in the type of the outputs, where the target is a number; one alike where none is."""
    there = ~targets.isnan()
    if bool(there.all()):
        return output, targets.to(output.dtype)
    if not bool(there.any()):
        return (alike := output.flatten()[:1] * 0), alike.detach()
    return output[there], targets[there].to(output.dtype)


def as_targets(output: torch.Tensor, targets: torch.Tensor, name: str) -> torch.Tensor:
    """An output in the shape of its targets; raises UserError where it has another number of values."""
    if not isinstance(targets, torch.Tensor) or output.numel() != targets.numel():
        shape = tuple(targets.shape) if isinstance(targets, torch.Tensor) else type(targets).__name__
        raise UserError(
            f"the model gave an output of shape {tuple(output.shape)} for targets of shape {shape}; "
            f"{name} needs one number for every target: give the model as many outputs"
        )
    return output.reshape(targets.shape)
