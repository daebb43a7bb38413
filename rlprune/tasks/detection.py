"""Detection: the model's own losses; COCO's mean average precision."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn

from rlprune.errors import UserError, check_known
from rlprune.seeding import derive
from rlprune.tasks.base import TASKS, Batch, OutputTask
from rlprune.tasks.coco import Boxes, CocoEvaluation
from rlprune.tasks.score import Score

_DRAWS = 200  # each sums the precision up anew


@TASKS.register("detection")
@dataclass(frozen=True)
class Detection(OutputTask):
    """Boxes with classes, the way torchvision's detectors take and give them.

    A batch is a list of images, float32 (3, H, W) in [0, 1], and a list of dicts with `boxes` (n, 4) in pixels
    x1 y1 x2 y2, `labels` (n,) from 1 on, `image_id` and `iscrowd`. In train mode the model maps both to a dict of
    losses; in eval mode it maps the images to dicts of `boxes`, `labels` and `scores`.

    Attributes:
        metric: "map", mean over the overlaps 0.50 to 0.95, or "map50", at 0.50.
        name: Name of the task.
    """

    metric: str = "map"
    name: ClassVar[str] = "detection"
    parts: ClassVar[tuple[str, ...]] = ()  # what is scored beside the boxes
    distillable: ClassVar[bool] = False
    model_losses: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_known("metric of detection", self.metric, ("map", "map50"))

    @property
    def spread(self) -> float | None:
        """Of key points, where those are compared and not boxes."""
        return None

    def size(self, batch: Batch) -> int:
        """Number of images in a batch."""
        return len(batch[1])

    def inputs(self, batch: Batch) -> tuple[Any, ...]:
        """The list of images."""
        return (batch[0],)

    def rows(self, output: Any, batch: Batch) -> torch.Tensor:
        """There is no tensor of logits that two detectors share; always raises UserError."""
        raise UserError("detectors cannot be distilled: their outputs are boxes; leave distillation out")

    def loss(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """Sum of the model's own losses.

        A model in eval mode gives none, so all its modules but norms and dropouts are put into train mode for the
        call. Detectors sample anchors and proposals at random: the draws are fixed by which images are in the batch.
        """
        images, targets = batch
        self._check_boxes(targets)
        with _losses_on(model), _fixed_draws(targets, images):
            losses = model(images, [_single_objects(target) for target in targets])
        if not isinstance(losses, dict) or not losses:
            raise UserError(
                f"the model returned a {type(losses).__name__} when it was given targets; "
                "detection needs a dict of losses in train mode, as torchvision's detectors give"
            )
        return torch.stack([value.float() for value in losses.values()]).sum()

    def _check_boxes(self, targets: Any) -> None:
        if not isinstance(targets, list) or not all(isinstance(one, dict) for one in targets):
            raise UserError(
                f"the data gives no boxes; {self.name} needs images with a dict of boxes and labels each, as COCO's "
                "files give"
            )

    def score(self, model: nn.Module, batches: Iterable[Batch]) -> Score:
        """Mean average precision; the interval comes from drawing images anew."""
        truths: list[Boxes] = []
        found: list[Boxes] = []
        for images, targets in batches:
            self._check_boxes(targets)
            detections = model(images)
            if not isinstance(detections, list) or len(detections) != len(images):
                raise UserError(
                    f"the model returned a {type(detections).__name__} for {len(images)} images; "
                    "detection needs a list of one dict an image, as torchvision's detectors give"
                )
            truths += [_arrays(target, ("boxes", "labels", "iscrowd", *self.parts)) for target in targets]
            found += [_arrays(one, ("boxes", "labels", "scores", *self.parts)) for one in detections]
        if not truths:
            raise UserError("there are no images to score; give the split at least one")
        for one in found:
            if not (np.isfinite(one["boxes"]).all() and np.isfinite(one["scores"]).all()):
                raise UserError(
                    "the model's boxes hold NaN or infinity; every output must be finite: check the weights"
                )
        evaluation = CocoEvaluation(truths, found, self.spread)
        precision = evaluation.precision()
        return Score(
            getattr(precision, self.metric),
            len(truths),
            self.metric,
            details={"map": precision.map, "map50": precision.map50},
            resample=partial(_precision, evaluation, self.metric),
            draws=_DRAWS,
        )


def _precision(evaluation: CocoEvaluation, metric: str, index: np.ndarray) -> float:
    return float(getattr(evaluation.precision(index), metric))


def _single_objects(target: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The target without boxes around crowds, which are for scoring only."""
    if "iscrowd" not in target:
        return target
    chosen = target["iscrowd"] == 0
    return {key: value[chosen] if key in ("boxes", "labels", "keypoints") else value for key, value in target.items()}


def _arrays(one: dict[str, torch.Tensor], keys: tuple[str, ...]) -> Boxes:
    missing = [key for key in keys if key not in one and key != "iscrowd"]
    if missing:
        raise UserError(f"a detection has no {missing[0]!r}; it has {', '.join(one)} and needs {', '.join(keys)}")
    return {key: one[key].detach().float().cpu().numpy() for key in keys if key in one}


@contextmanager
def _losses_on(model: nn.Module) -> Iterator[None]:
    """Train mode for everything that does not change its behaviour on data with it."""
    if model.training:
        yield
        return
    modes = [(module, module.training) for module in model.modules()]
    for module, _ in modes:
        quiet = isinstance(module, (nn.modules.batchnorm._NormBase, nn.modules.dropout._DropoutNd))
        module.training = not quiet
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def _fixed_draws(targets: list[dict[str, torch.Tensor]], images: list[torch.Tensor]) -> Iterator[None]:
    """Torch's global generators, seeded from the batch inside and as they were outside."""
    seed = derive(0, "detection", *(int(target["image_id"]) for target in targets if "image_id" in target))
    devices = [images[0].device] if images and images[0].is_cuda else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield
