"""Detection samples: images with boxes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rlprune.data.cutting import Cut, Pool, assemble
from rlprune.data.folders import hash_files
from rlprune.data.images import image_size, open_image, to_array
from rlprune.data.samples import Augment, Sample, SampleSource
from rlprune.data.splits import DataSplits, Source
from rlprune.errors import UserError
from rlprune.tasks.base import Batch

BACKGROUND = "__background__"


@dataclass(frozen=True)
class BoxedImage:
    """An image file and what is on it.

    Attributes:
        path: The file.
        boxes: (n, 4) x1 y1 x2 y2 in pixels.
        labels: (n,) class indices from 1 on.
        crowd: (n,) boxes around many objects, which scoring neither asks for nor punishes.
        size: (height, width), None where only the file knows.
        keypoints: (n, k, 3) x, y in pixels and whether the point is there; None where there are none.
    """

    path: Path
    boxes: np.ndarray
    labels: np.ndarray
    crowd: np.ndarray
    size: tuple[int, int] | None = None
    keypoints: np.ndarray | None = None


@dataclass(frozen=True)
class BoxReader:
    """Reads images with their boxes."""

    images: Sequence[BoxedImage]
    area: int  # of the images, in pixels, on average
    moves = False

    def __len__(self) -> int:
        return len(self.images)

    def read(self, index: int, generator: np.random.Generator | None) -> Sample:
        """The image, uint8 (3, H, W), and a dict of boxes, labels, iscrowd and image_id."""
        one = self.images[index]
        image = open_image(one.path)
        if one.size is not None and (image.height, image.width) != one.size:
            raise UserError(
                f"image {one.path} is {image.width}x{image.height} and its annotation says "
                f"{one.size[1]}x{one.size[0]}; they must be of one size"
            )
        check_boxes(one.boxes, (image.height, image.width), str(one.path))
        limits = np.array([image.width, image.height] * 2, dtype=np.float32)
        boxes = np.clip(one.boxes.astype(np.float32), 0, limits)
        target = {
            "boxes": torch.from_numpy(boxes).reshape(-1, 4),
            "labels": torch.from_numpy(one.labels.astype(np.int64)),
            "iscrowd": torch.from_numpy(one.crowd.astype(np.int64)),
            "image_id": torch.tensor(index),
        }
        if one.keypoints is not None:
            target["keypoints"] = torch.from_numpy(one.keypoints.astype(np.float32))
        return torch.from_numpy(to_array(image, 3)), target

    def nbytes(self) -> int:
        """Of an average image."""
        return 3 * self.area


def check_boxes(boxes: np.ndarray, size: tuple[int, int], where: str) -> None:
    """Raise UserError if a box has no area, or lies outside the image by more than a pixel (rounding)."""
    height, width = size
    for left, top, right, bottom in boxes:
        text = f"({left:g}, {top:g}) to ({right:g}, {bottom:g})"
        if not (right > left and bottom > top):  # also false for NaN
            raise UserError(f"{where}: the box {text} has no area; remove it or correct it")
        if left < -1 or top < -1 or right > width + 1 or bottom > height + 1:
            raise UserError(f"{where}: the box {text} lies outside the image of {width}x{height}; clip it to the image")


def box_collate(samples: Sequence[Sample], device: torch.device) -> Batch:
    """Lists of images, float32 (3, H, W) in [0, 1], and of dicts; detectors normalise and resize by themselves."""
    images = [image.to(device).float().div_(255.0) for image, _ in samples]
    return images, [{key: value.to(device) for key, value in target.items()} for _, target in samples]


def box_augment(*, mirror: bool) -> Augment:
    """Crops that keep some overlap with a box (Liu et al. 2016, section 2.2) and mirroring, as for SSDlite."""
    from torchvision import tv_tensors
    from torchvision.transforms import v2

    flip: list[Any] = [v2.RandomHorizontalFlip()] if mirror else []
    boxed = v2.Compose([v2.RandomIoUCrop(), *flip, v2.SanitizeBoundingBoxes(labels_getter=_labels)])
    empty = v2.Compose(flip) if flip else None

    def augment(sample: Sample) -> Sample:
        image, target = sample
        if not len(target["boxes"]):
            return (empty(image) if empty is not None else image), target
        wrapped = {
            **target,
            "boxes": tv_tensors.BoundingBoxes(target["boxes"], format="XYXY", canvas_size=tuple(image.shape[1:])),
        }
        changed, out = boxed(tv_tensors.Image(image), wrapped)
        out = {**out, "boxes": out["boxes"].as_subclass(torch.Tensor)}
        return changed.as_subclass(torch.Tensor), out

    return augment


def _labels(inputs: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """What goes with every box and is dropped with it."""
    return inputs[1]["labels"], inputs[1]["iscrowd"]


def splits_from_boxes(
    name: str, pools: Mapping[str, Sequence[BoxedImage]], classes: tuple[str, ...], cut: Cut, *, mirror: bool = True
) -> DataSplits:
    """Cut images with boxes into roles and wrap them up.

    Args:
        name: Specification of the data.
        pools: By name ("train", "val", "test").
        classes: Class names; the first is the background.
        cut: How to cut.
        mirror: Whether training may mirror images.

    Raises:
        UserError: A pool has no image, or the training images have no box at all.
    """
    for pool, images in pools.items():
        if not images:
            raise UserError(f"{name}: the {pool} annotations name no image; there must be at least one")
        if not any(len(image.boxes) for image in images):
            raise UserError(f"{name}: the {pool} annotations hold no box; there must be at least one")
    if cut.size is not None:
        raise UserError(
            f"size={cut.size} does not apply to detection data: detectors resize by themselves; leave it out"
        )
    if cut.channels == 1:
        raise UserError("channels=1 does not apply to detection data: it is read in colour; leave it out")
    pointed = any(one.keypoints is not None for images in pools.values() for one in images)
    augment = None if pointed else box_augment(mirror=mirror)  # mirroring would have to swap left and right points
    sized = dict[str, Pool]()
    for key, images in pools.items():
        sized[key] = Pool(key, len(images), None, hash_files([one.path for one in images]))

    def source(key: str, _: None) -> Source:
        some = pools[key][:: max(1, len(pools[key]) // 64)]
        sizes = [one.size or image_size(one.path) for one in some]
        area = int(np.mean([height * width for height, width in sizes]))
        return SampleSource(key, BoxReader(pools[key], area), box_collate, augment)

    first = pools["train"][0]
    height, width = first.size or image_size(first.path)
    return assemble(name, "detection", classes, (3, height, width), sized, cut, source, None)
