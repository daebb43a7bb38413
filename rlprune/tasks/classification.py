"""Classification: cross-entropy and accuracy."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from rlprune.errors import UserError, check_known
from rlprune.tasks.base import (
    TASKS,
    Batch,
    OutputTask,
    check_finite_outputs,
    likelihood,
    resampled,
    single_output,
    whole_numbers,
)
from rlprune.tasks.score import Score


@TASKS.register("classification")
@dataclass(frozen=True)
class Classification(OutputTask):
    """One label an image; the model gives logits (N, classes).

    Attributes:
        metric: "accuracy", or "loss": then the score is exp(-mean cross-entropy).
        name: Name of the task.
    """

    metric: str = "accuracy"
    name: ClassVar[str] = "classification"
    distillable: ClassVar[bool] = True
    single: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_known("metric of classification", self.metric, ("accuracy", "loss"))

    def output(self, returned: Any, targets: Any) -> torch.Tensor:
        """Logits, (N, classes)."""
        logits = single_output(returned)
        if logits.ndim != 2:
            raise UserError(
                f"the model gave an output of shape {tuple(logits.shape)}; "
                "classification needs logits of shape (images, classes): flatten the output"
            )
        return logits

    def rows(self, output: Any, batch: Batch) -> torch.Tensor:
        """Logits, (N, classes), of what a model returned."""
        return self.output(output, batch[1])

    def loss_of(self, output: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Mean cross-entropy."""
        labels = labels_of(targets)
        try:
            return F.cross_entropy(output, labels)
        except IndexError:
            _check_labels(labels, output.shape[1])
            raise

    def examples(self, output: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Whether each image's label is right."""
        return output.argmax(1) == labels_of(targets)

    def score(self, model: nn.Module, batches: Iterable[Batch]) -> Score:
        """Accuracy and mean cross-entropy."""
        right: list[np.ndarray] = []
        loss, n = 0.0, 0
        for batch in batches:
            logits = self.outputs(model, batch)
            check_finite_outputs(logits)
            labels = labels_of(batch[1])
            _check_labels(labels, logits.shape[1])
            right.append((logits.argmax(1) == labels).cpu().numpy())
            loss += float(F.cross_entropy(logits.float(), labels, reduction="sum"))
            n += len(labels)
        if n == 0:
            raise UserError("there are no images to score; give the split at least one")
        table = np.concatenate(right)
        details = {"accuracy": float(table.mean())}
        if self.metric != "accuracy":
            return Score(likelihood(loss / n), n, self.metric, loss / n, details)
        resample = partial(resampled, self.measure, table)
        return Score(details["accuracy"], n, self.metric, loss / n, details, resample=resample, draws=0)


def _check_labels(labels: torch.Tensor, outputs: int) -> None:
    least, most = int(labels.min()), int(labels.max())
    if least < 0 or most >= outputs:
        raise UserError(
            f"label {least if least < 0 else most} does not fit a model with {outputs} outputs, whose "
            f"labels are 0 to {outputs - 1}; give the model as many outputs as the data has classes"
        )


def labels_of(targets: Any) -> torch.Tensor:
    """Labels, int64 (N,), of whole numbers of any width; raises UserError for targets that are none."""
    return whole_numbers(
        targets,
        1,
        "classification needs labels, whole numbers of shape (images,): give batch=function that makes them "
        "(of one-hot targets the argmax), or another task",
    )
