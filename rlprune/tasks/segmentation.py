"""Segmentation: cross-entropy, Dice and one-against-rest losses; mean intersection over union."""

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

IGNORE = 255
_LOSSES = ("ce", "ce+dice", "bce", "bce+dice", "dice")
_METRICS = ("miou", "pixel_accuracy", "loss")
_SCALING = {1: "linear", 2: "bilinear", 3: "trilinear"}  # by how many axes there are
_AUXILIARY = 0.5  # weight of torchvision's auxiliary head


@TASKS.register("segmentation")
@dataclass(frozen=True)
class Segmentation(OutputTask):
    """A class for every pixel; the model gives logits (N, classes, H, W), or (N, 1, H, W) for one class against none.

    Signals and volumes have one or three axes in the place of H and W. Pixels with the value 255 count nowhere.

    Attributes:
        objective: What is minimised: "ce" (cross-entropy), "bce" (each class against the rest, by sigmoid), "dice",
            or a sum, as "ce+dice".
        metric: "miou": the mean over the classes that occur of intersection over union, summed over the images;
            "pixel_accuracy"; or "loss": then the score is exp(-mean cross-entropy).
        name: Name of the task.
    """

    metric: str = "miou"
    objective: str = "ce"
    name: ClassVar[str] = "segmentation"
    distillable: ClassVar[bool] = True
    single: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_known("metric of segmentation", self.metric, _METRICS)
        check_known("objective of segmentation", self.objective, _LOSSES)

    def output(self, returned: Any, targets: Any) -> torch.Tensor:
        """Logits, (N, classes, H, W), brought to the size of the masks."""
        return _pair(returned, targets)[0]

    def outputs(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """Logits, (N, classes, H, W), brought to the size of the masks."""
        return self.output(model(*self.inputs(batch)), batch[1])

    def loss_of(self, output: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Mean loss over the pixels that count."""
        return self._loss(output, masks_of(targets, output.ndim - 1))

    def examples(self, output: torch.Tensor, targets: torch.Tensor) -> np.ndarray:
        """Per image and class the pixels of intersection, prediction and truth."""
        return image_counts(output.argmax(1), masks_of(targets, output.ndim - 1), output.shape[1])

    def measure(self, table: np.ndarray) -> float:
        """Mean intersection over union, or pixel accuracy."""
        return pixel_accuracy(table) if self.metric == "pixel_accuracy" else miou(table)

    def rows(self, output: Any, batch: Batch) -> torch.Tensor:
        """Logits of the pixels that count, (pixels, classes), of what a model returned."""
        logits, masks = _pair(output, batch[1])
        return logits.movedim(1, -1)[masks != IGNORE]

    def loss(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """Mean loss over the pixels that count; torchvision's auxiliary head adds half of its own."""
        output = model(*self.inputs(batch))
        logits, masks = _pair(output, batch[1])
        loss = self._loss(logits, masks)
        if isinstance(output, dict) and isinstance(output.get("aux"), torch.Tensor):
            loss = loss + _AUXILIARY * self._loss(_fit(output["aux"], masks), masks)
        return loss

    def score(self, model: nn.Module, batches: Iterable[Batch]) -> Score:
        """Score over all images together; the interval comes from drawing images anew."""
        counts: list[np.ndarray] = []
        loss, pixels, n = 0.0, 0, 0
        for batch in batches:
            logits, masks = _pair(model(*self.inputs(batch)), batch[1])
            check_finite_outputs(logits)
            _check_masks(masks, logits.shape[1])
            counts.append(image_counts(logits.argmax(1), masks, logits.shape[1]))
            loss += float(F.cross_entropy(logits.float(), masks, ignore_index=IGNORE, reduction="sum"))
            pixels += int((masks != IGNORE).sum())
            n += len(masks)
        if n == 0 or pixels == 0:
            raise UserError("there are no pixels to score; give the split at least one image with a class in its mask")
        table, mean_loss = np.concatenate(counts), loss / pixels
        details = {"miou": miou(table), "pixel_accuracy": pixel_accuracy(table)}
        if self.metric == "loss":
            return Score(likelihood(mean_loss), n, "loss", mean_loss, details)
        measure = miou if self.metric == "miou" else pixel_accuracy
        return Score(measure(table), n, self.metric, mean_loss, details, resample=partial(resampled, measure, table))

    def _loss(self, logits: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
        valid = masks != IGNORE
        if not bool(valid.any()):
            return logits.sum() * 0.0
        _check_masks(masks, logits.shape[1])
        terms = []
        if "ce" in self.objective.split("+"):
            terms.append(F.cross_entropy(logits, masks, ignore_index=IGNORE))
        if self.objective == "ce":
            return terms[0]
        one_hot = F.one_hot(masks.where(valid, 0), logits.shape[1]).movedim(-1, 1).to(logits.dtype)
        weight = valid[:, None].to(logits.dtype)
        if "bce" in self.objective:
            each = F.binary_cross_entropy_with_logits(logits, one_hot, reduction="none")
            terms.append((each * weight).sum() / (weight.sum() * logits.shape[1]))
        if "dice" in self.objective:
            terms.append(_dice(logits, one_hot, weight))
        return torch.stack(terms).sum()


def image_counts(predicted: torch.Tensor, masks: torch.Tensor, classes: int) -> np.ndarray:
    """Per image and class the pixels of intersection, prediction and truth: int64 (N, 3, classes)."""
    valid = masks != IGNORE
    images = torch.arange(len(masks), device=masks.device).view(-1, *[1] * (masks.ndim - 1)).expand_as(masks)
    offset = images * classes

    def count(values: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
        return torch.bincount((offset + values)[chosen], minlength=len(masks) * classes).view(-1, classes)

    table = torch.stack(
        (count(masks, valid & (predicted == masks)), count(predicted, valid), count(masks, valid)), dim=1
    )
    return np.asarray(table.cpu().numpy(), dtype=np.int64)


def miou(counts: np.ndarray) -> float:
    """Mean intersection over union of the classes that occur in prediction or truth, all images together."""
    both, predicted, truth = counts.sum(axis=0)
    union = predicted + truth - both
    occurs = union > 0
    return float((both[occurs] / union[occurs]).mean()) if occurs.any() else 0.0


def pixel_accuracy(counts: np.ndarray) -> float:
    """Share of the pixels that have the right class."""
    both, _, truth = counts.sum(axis=(0, 2))
    return float(both / truth) if truth else 0.0


def _pair(returned: Any, targets: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of what a model returned, at the masks' size, and the masks."""
    logits = single_output(returned)
    if logits.ndim - 2 not in _SCALING:
        raise UserError(
            f"the model gave an output of shape {tuple(logits.shape)}; "
            "segmentation needs logits of shape (images, classes, height, width)"
        )
    masks = masks_of(targets, logits.ndim - 1)
    return _fit(logits, masks), masks


def _fit(logits: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """Logits at the masks' size, and of two classes where the model gives one channel."""
    size = masks.shape[1:]
    if logits.shape[2:] != size:
        logits = F.interpolate(logits, size, mode=_SCALING[len(size)], align_corners=False)
    if logits.shape[1] == 1:  # softmax of (0, x) is the sigmoid of x
        logits = torch.cat((torch.zeros_like(logits), logits), dim=1)
    return logits


def _dice(logits: torch.Tensor, one_hot: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """One minus the Dice coefficient of the probabilities, mean over classes (Milletari et al. 2016, smoothed by 1)."""
    probability = logits.softmax(1) * weight
    truth = one_hot * weight
    axes = (0, *range(2, logits.ndim))
    both = (probability * truth).sum(axes)
    return (1 - (2 * both + 1) / (probability.sum(axes) + truth.sum(axes) + 1)).mean()


def masks_of(targets: Any, dims: int) -> torch.Tensor:
    """Masks, int64 of so many axes, (N, H, W), of whole numbers of any width; raises UserError for what are none."""
    if isinstance(targets, torch.Tensor) and targets.ndim == dims + 1 and targets.shape[1] == 1:
        targets = targets[:, 0]
    return whole_numbers(
        targets,
        dims,
        "segmentation needs masks, the class of every pixel as a whole number, (images, height, width): "
        "give batch=function that makes them",
    )


def _check_masks(masks: torch.Tensor, classes: int) -> None:
    highest = int(masks.where(masks != IGNORE, 0).max())
    if highest >= classes:
        raise UserError(
            f"class {highest} of a mask does not fit a model with {classes} outputs; "
            "give the model as many outputs as the data has classes"
        )
