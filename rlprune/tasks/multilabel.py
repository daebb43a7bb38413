"""Several labels an image: binary cross-entropy; mean average precision or exact match."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F

from rlprune.tasks.base import TASKS, OutputTask, check_option, single_output
from rlprune.tasks.regression import as_targets


@TASKS.register("multilabel")
@dataclass(frozen=True)
class Multilabel(OutputTask):
    """A yes or no for every class; targets (N, classes) of 0 and 1, logits of the same shape.

    Attributes:
        metric: "map": average precision by the scores' order, mean over the classes that occur; or "exact": the share
            of examples all of whose labels are right.
        name: Name of the task.
    """

    metric: str = "map"
    name: ClassVar[str] = "multilabel"
    single: ClassVar[bool] = True
    draws: ClassVar[int] = 200  # each sorts every class anew

    def __post_init__(self) -> None:
        check_option("metric of multilabel", self.metric, ("map", "exact"))

    def output(self, returned: Any, targets: torch.Tensor) -> torch.Tensor:
        """Logits, (N, classes)."""
        return as_targets(single_output(returned), targets, self.name)

    def loss_of(self, output: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Mean binary cross-entropy."""
        return F.binary_cross_entropy_with_logits(output, targets.to(output.dtype))

    def examples(self, output: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Logits and labels side by side, (n, 2, classes); or whether all labels are right."""
        if self.metric == "exact":
            return ((output > 0) == (targets > 0.5)).all(1)
        return torch.stack((output.double(), targets.double()), dim=1)

    def measure(self, table: np.ndarray) -> float:
        """Mean average precision over the classes that occur, or the share of exact matches."""
        if self.metric == "exact":
            return float(table.mean())
        from sklearn.metrics import average_precision_score

        logits, labels = table[:, 0], table[:, 1] > 0.5
        occurs = labels.any(axis=0)
        return float(average_precision_score(labels[:, occurs], logits[:, occurs])) if occurs.any() else 0.0
