"""Image to image: absolute or squared error; peak signal-to-noise ratio or structural similarity."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from rlprune.errors import check_known, needing
from rlprune.tasks.base import TASKS, OutputTask, check_above_zero, single_output
from rlprune.tasks.regression import LOSSES, as_targets


@TASKS.register("image")
@dataclass(frozen=True)
class ImageToImage(OutputTask):
    """An image for every image: denoising, super-resolution, depth; targets (N, C, H, W).

    Attributes:
        metric: "psnr" in dB, mean over the images; or "ssim", which needs torchmetrics (the extra `images`).
        objective: What training minimises: "l1" or "mse".
        peak: Largest value a target can have, less the smallest.
        name: Name of the task.
    """

    metric: str = "psnr"
    objective: str = "l1"
    peak: float = 1.0
    name: ClassVar[str] = "image"
    percent = False
    single: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_known("metric of image", self.metric, ("psnr", "ssim"))
        check_known("objective of image", self.objective, LOSSES)
        check_above_zero(self.name, "peak", self.peak)

    def output(self, returned: Any, targets: torch.Tensor) -> torch.Tensor:
        """Images in the shape of the targets."""
        return as_targets(single_output(returned), targets, self.name)

    def loss_of(self, output: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Mean absolute or squared error."""
        return LOSSES[self.objective](output, targets.to(output.dtype))

    def examples(self, output: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Of each image the ratio in dB (100 dB at most, so that a perfect one is finite), or SSIM."""
        if self.metric == "ssim":
            return _ssim(output, targets, self.peak)
        error = (output.double() - targets.double()).flatten(1).square().mean(1) / self.peak**2
        return -10 * error.clamp(min=1e-10).log10()


def _ssim(output: torch.Tensor, targets: torch.Tensor, peak: float) -> torch.Tensor:
    with needing("metric=ssim needs the package torchmetrics", "images"):
        from torchmetrics.functional.image import structural_similarity_index_measure
    found = structural_similarity_index_measure(output.float(), targets.float(), data_range=peak, reduction="none")
    return torch.as_tensor(found).reshape(-1)
