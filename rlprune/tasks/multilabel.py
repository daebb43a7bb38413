"""Several labels an image: binary cross-entropy; mean average precision or exact match."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F

from rlprune.errors import UserError, check_known
from rlprune.tasks.base import TASKS, OutputTask, single_output
from rlprune.tasks.regression import as_targets, known


@TASKS.register("multilabel")
@dataclass(frozen=True)
class Multilabel(OutputTask):
    """A yes or no for every class; targets (N, classes) of 0 and 1, NaN where nobody knows; logits of the same shape.

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
        check_known("metric of multilabel", self.metric, ("map", "exact"))

    def output(self, returned: Any, targets: torch.Tensor) -> torch.Tensor:
        """Logits, (N, classes)."""
        return as_targets(single_output(returned), targets, self.name)

    def loss_of(self, output: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Mean binary cross-entropy."""
        return F.binary_cross_entropy_with_logits(*known(output, targets))

    def examples(self, output: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Logits and labels side by side, (n, 2, classes); or whether all labels are right."""
        if bool(((targets < 0) | (targets > 1)).any()):
            raise UserError("a label is neither 0 nor 1; multilabel needs 1 for yes, 0 for no, and NaN for not known")
        if self.metric == "exact":
            return (((output > 0) == (targets > 0.5)) | targets.isnan()).all(1)
        return torch.stack((output.double(), targets.double()), dim=1)

    def measure(self, table: np.ndarray) -> float:
        """Mean average precision over the classes that occur, or the share of exact matches."""
        if self.metric == "exact":
            return float(table.mean())
        logits, labels = table[:, 0], table[:, 1]
        occurs = (labels > 0.5).any(axis=0)
        return float(average_precision(logits[:, occurs], labels[:, occurs]).mean()) if occurs.any() else 0.0


def average_precision(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Of each class, (n, classes), the mean over its positives of the precision among all that score no less than it.

    Labels that are NaN count nowhere; every class has a positive.
    """
    order = np.argsort(-logits, axis=0, kind="stable")
    logits, labels = (np.take_along_axis(values, order, axis=0) for values in (logits, labels))
    hits = labels > 0.5
    precision = hits.cumsum(axis=0) / np.maximum((~np.isnan(labels)).cumsum(axis=0), 1)
    last = np.where(np.diff(logits, axis=0, append=-np.inf) < 0, np.arange(len(logits))[:, None], len(logits))
    level = np.minimum.accumulate(last[::-1], axis=0)[::-1]  # of each the last that scores the same
    return np.asarray((hits * np.take_along_axis(precision, level, axis=0)).sum(axis=0) / hits.sum(axis=0))
