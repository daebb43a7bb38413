"""COCO's mean average precision, by its reference implementation (pycocotools, the extra `detection`)."""

from __future__ import annotations

import contextlib
import copy
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rlprune.errors import needing

Boxes = dict[str, np.ndarray]


@dataclass(frozen=True)
class Precision:
    """Average precision, mean over the classes that occur.

    Attributes:
        map: Over the overlaps 0.50, 0.55 ... 0.95: COCO's main figure.
        map50: At overlap 0.50: Pascal VOC's.
    """

    map: float
    map50: float


class CocoEvaluation:
    """Detections matched to the truth, image by image, once; then summed up for all images or any draw of them.

    Args:
        truths: Per image `boxes` (n, 4) x1 y1 x2 y2, `labels` (n,), and optionally `iscrowd` (n,).
        detections: Per image `boxes`, `labels` and `scores`.
        sigma: Compare `keypoints` (n, k, 3) of both by their similarity, with this spread, instead of boxes by overlap;
            the 17 points of COCO have spreads of their own.
    """

    def __init__(self, truths: Sequence[Boxes], detections: Sequence[Boxes], sigma: float | None = None) -> None:
        with needing("detection is scored by pycocotools, which is not here", "detection"):
            from pycocotools.coco import COCO
            from pycocotools.cocoeval import COCOeval
        categories = sorted({int(label) for one in (*truths, *detections) for label in one["labels"]})
        with contextlib.redirect_stdout(io.StringIO()):  # it reports its progress by print
            sides = []
            for boxes in (truths, detections):
                coco = COCO()
                coco.dataset = _dataset(boxes, categories)
                coco.createIndex()
                sides.append(coco)
            self._evaluation: Any = COCOeval(*sides, iouType="bbox" if sigma is None else "keypoints")
            points = next((one["keypoints"].shape[1] for one in truths if "keypoints" in one), 0)
            if sigma is not None and points != len(self._evaluation.params.kpt_oks_sigmas):
                self._evaluation.params.kpt_oks_sigmas = np.full(points, sigma)
            for sizes in ("areaRng", "areaRngLbl"):  # all of them together; the rest is not asked for
                setattr(self._evaluation.params, sizes, getattr(self._evaluation.params, sizes)[:1])
            self._evaluation.evaluate()
        self._categories = len(categories)
        self._images = len(truths)

    def precision(self, index: np.ndarray | None = None) -> Precision:
        """Over all images, or over those at `index`, which may name an image more than once."""
        evaluation = copy.copy(self._evaluation)
        if index is not None:
            matched = np.empty(len(evaluation.evalImgs), dtype=object)
            matched[:] = evaluation.evalImgs
            evaluation.evalImgs = matched.reshape(self._categories, self._images)[:, index].ravel().tolist()
            evaluation.params = copy.deepcopy(evaluation.params)
            evaluation.params.imgIds = list(range(len(index)))
            evaluation._paramsEval = copy.deepcopy(evaluation.params)
        if not self._categories:
            return Precision(0.0, 0.0)
        with contextlib.redirect_stdout(io.StringIO()):
            evaluation.accumulate()
        table = evaluation.eval["precision"][:, :, :, 0, -1]  # (overlap, recall, class), -1 where a class has no truth
        return Precision(_mean(table), _mean(table[:1]))


def _mean(table: np.ndarray) -> float:
    known = table[table > -1]
    return float(known.mean()) if known.size else 0.0


def _dataset(images: Sequence[Boxes], categories: list[int]) -> dict[str, Any]:
    annotations: list[dict[str, Any]] = []
    for image, one in enumerate(images):
        boxes = np.asarray(one["boxes"], dtype=np.float64).reshape(-1, 4)
        crowd = one.get("iscrowd", np.zeros(len(boxes), dtype=np.int64))
        for i, (left, top, right, bottom) in enumerate(boxes):
            width, height = right - left, bottom - top
            annotation: dict[str, Any] = {
                "id": len(annotations) + 1,
                "image_id": image,
                "category_id": int(one["labels"][i]),
                "bbox": [left, top, width, height],
                "area": width * height,
                "iscrowd": int(crowd[i]),
            }
            if "scores" in one:
                annotation["score"] = float(one["scores"][i])
            if "keypoints" in one:
                points = np.asarray(one["keypoints"][i], dtype=np.float64)
                annotation |= {"keypoints": points.ravel().tolist(), "num_keypoints": int((points[:, 2] > 0).sum())}
            annotations.append(annotation)
    return {
        "info": {},
        "images": [{"id": image} for image in range(len(images))],
        "categories": [{"id": category} for category in categories],
        "annotations": annotations,
    }
