"""Key points: of objects in boxes (Keypoint R-CNN), scored by OKS; or a heat map for each, scored by PCK."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from rlprune.errors import UserError
from rlprune.tasks.base import TASKS, OutputTask, check_above_zero
from rlprune.tasks.detection import Detection


@TASKS.register("keypoints")
@dataclass(frozen=True)
class Keypoints(Detection):
    """Key points of objects, the way torchvision's Keypoint R-CNN takes and gives them.

    Batches are those of `Detection`, with `keypoints` (n, k, 3) in the targets and the detections: x, y in pixels, and
    whether the point is there. Average precision is COCO's over the object keypoint similarity.

    Attributes:
        metric: "map", mean over the similarities 0.50 to 0.95, or "map50", at 0.50.
        sigma: How far off an annotator is, as a share of the object's size; COCO's own for its 17 points.
        name: Name of the task.
    """

    sigma: float = 0.05
    name: ClassVar[str] = "keypoints"
    parts: ClassVar[tuple[str, ...]] = ("keypoints",)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_above_zero(self.name, "sigma", self.sigma)

    @property
    def spread(self) -> float | None:
        """Of the points, for their similarity."""
        return self.sigma


@TASKS.register("heatmaps")
@dataclass(frozen=True)
class HeatMaps(OutputTask):
    """A map for every key point, brightest where it is; outputs (N, k, H, W), targets (N, k, 2 or 3) or flat (N, 2 k).

    Targets are x and y as fractions of the image's width and height, and, of three numbers, whether the point is there.
    Training brings the maps to Gaussians around the points (squared error). The score is PCK: the share of the points
    that are there which lie no farther than `radius` from the brightest place, in fractions of the longer side.

    Attributes:
        radius: The distance that counts as found.
        spread: Standard deviation of the Gaussians, in pixels of the map.
        name: Name of the task.
    """

    radius: float = 0.1
    spread: float = 1.0
    name: ClassVar[str] = "heatmaps"
    single: ClassVar[bool] = True

    def __post_init__(self) -> None:
        for option in ("radius", "spread"):
            check_above_zero(self.name, option, getattr(self, option))

    @property
    def metric(self) -> str:  # type: ignore[override]
        """Share of correct key points."""
        return f"pck@{self.radius:g}"

    def loss_of(self, output: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Mean squared difference from the Gaussians, over the maps of points that are there."""
        places, there = _points(output, targets)
        height, width = output.shape[2:]
        x = torch.arange(width, device=output.device) - places[..., 0, None]
        y = torch.arange(height, device=output.device) - places[..., 1, None]
        wanted = torch.exp(-(x.square()[..., None, :] + y.square()[..., :, None]) / (2 * self.spread**2))
        errors = (output - wanted.to(output.dtype)).square().mean((2, 3))
        return (errors * there).sum() / there.sum().clamp(min=1)

    def examples(self, output: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Of every example how many points were found, and how many there are."""
        places, there = _points(output, targets)
        height, width = output.shape[2:]
        brightest = output.flatten(2).argmax(2)
        found = torch.stack((brightest % width, brightest // width), dim=2)
        near = (found - places).norm(dim=2) <= self.radius * max(height, width)
        return torch.stack(((near & there).sum(1), there.sum(1)), dim=1)

    def measure(self, table: np.ndarray) -> float:
        """Points found of those that are there; 0 where there are none."""
        return float(table[:, 0].sum() / max(table[:, 1].sum(), 1.0))


def _points(output: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Places (N, k, 2) in pixels of the maps, and whether the points are there (N, k)."""
    count = output.shape[1] if output.ndim == 4 else 0
    flat = targets.ndim == 2 and count and targets.shape[1] in (2 * count, 3 * count)
    points = targets.reshape(len(targets), count, -1) if flat else targets
    if not count or points.ndim != 3 or points.shape[:2] != output.shape[:2] or points.shape[2] not in (2, 3):
        raise UserError(
            f"the model gave an output of shape {tuple(output.shape)} for targets of shape {tuple(targets.shape)}; "
            "heatmaps needs (N, k, height, width) for (N, k, 2) or (N, k, 3)"
        )
    size = torch.tensor([output.shape[3], output.shape[2]], device=output.device)
    there = points[..., 2] > 0 if points.shape[2] == 3 else torch.ones_like(points[..., 0], dtype=torch.bool)
    return points[..., :2] * size - 0.5, there
