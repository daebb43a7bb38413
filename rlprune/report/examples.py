"""Control images on which a network and what pruning made of it are compared, for a person to look at."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from rlprune.data import Split
from rlprune.data.live import LiveSplit
from rlprune.problem import PruningProblem
from rlprune.scoring.evaluation import evaluating
from rlprune.tasks import Batch
from rlprune.tasks.segmentation import IGNORE, image_counts, miou

SHOWN, USUAL = 5, 2  # images shown, and how many of them are not those that changed most
SMALL = 6  # images shown where each has one small picture
WORK = 1e12  # multiply–accumulates of the unpruned network that looking for examples may take
FEWEST, MOST = 12, 1000  # images looked at
OVERLAP = 0.5  # intersection over union from which two boxes are one

Boxes = dict[str, np.ndarray]


@dataclass(frozen=True)
class Example:
    """One control image.

    Attributes:
        image: (H, W, 3) in [0, 1].
        truth, before, after: Classification: a label, and the probabilities (classes,). Segmentation: masks of class
            indices (H, W), 255 where it does not count. Detection: dicts of `boxes` (n, 4) x1 y1 x2 y2, `labels` (n,),
            and of detections `scores` (n,).
        change: How far `after` is from `before`, comparable between the images of a task.
        words: What changed.
    """

    image: np.ndarray
    truth: Any
    before: Any
    after: Any
    change: float
    words: str


@dataclass(frozen=True)
class Examples:
    """The images to show.

    Attributes:
        task: Name of the task.
        classes: Names of the classes.
        chosen: Those that changed most first.
        caption: How they were chosen, for whom it may concern.
    """

    task: str
    classes: tuple[str, ...]
    chosen: list[Example]
    caption: str


def find_examples(problem: PruningProblem, before: nn.Module, after: nn.Module) -> Examples | None:
    """Compare two networks on control images and choose some: most of those that changed most, and usual ones.

    The problem's ledger is left alone: nothing is decided by what is seen here.

    Args:
        problem: Data and task.
        before: The unpruned network.
        after: The pruned one.

    Returns:
        The examples; None for a task that this module does not know how to show.
    """
    task = problem.task.name
    if task not in _TARGETS or problem.data.control is None:
        return None
    control, classes = problem.data.split("control"), problem.data.classes
    looked = control.first(min(len(control), max(FEWEST, min(MOST, int(WORK / max(problem.cost.macs(), 1))))))
    count = len(looked)
    truths = [truth for batch in _batches(problem, looked) for truth in _TARGETS[task](batch)]
    sides = [_predictions(problem, model, looked) for model in (before, after)]
    classes, note = classes or _numbers(truths), ""
    if task == "detection":
        sides, threshold = _above_threshold(truths, *sides)
        note = f" Boxes with a score of at least {threshold:.2f} are shown."
    found = [_COMPARE[task](truth, was, now, classes) for truth, was, now in zip(truths, *sides, strict=True)]
    order = sorted(range(count), key=lambda i: (-found[i].change, i))
    picked, where = _pick(order, spread=task != "classification")
    every_input = (batch[0] for batch in looked.batches(64, device="cpu"))
    every_image = (image for part in every_input for image in (part[0] if isinstance(part, tuple) else part))
    images = {i: image for i, image in enumerate(every_image) if i in picked}
    normalisation = problem.data.to_json()["roles"].get("normalisation")
    chosen = [replace(found[i], image=displayable(images[i], normalisation)) for i in picked]
    every = "all" if count == len(control) else "the first"
    caption = f"{len(chosen)} of {every} {count:,} control images: {where}.{note}"
    if task == "classification":
        caption += _turned(truths, *sides)
    return Examples(task, classes, chosen, caption)


def _pick(order: Sequence[int], *, spread: bool) -> tuple[list[int], str]:
    """Positions to show, and in words which they are."""
    count = SHOWN if spread else SMALL
    if len(order) <= count:
        return list(order), "in the order of how much they changed"
    if not spread:
        return list(order[:count]), "those that changed most"
    most, rest = list(order[: count - USUAL]), order[count - USUAL :]
    usual = [rest[i * len(rest) // (USUAL + 1)] for i in range(1, USUAL + 1)]
    return [*most, *usual], f"the {len(most)} that changed most, and below them {USUAL} usual ones"


def displayable(image: torch.Tensor, normalisation: dict[str, Any] | None) -> np.ndarray:
    """An input (C, H, W) as it was before it was normalised: (H, W, 3) in [0, 1]; grey, or the first three channels.

    A signal (C, L) is a row, and of a volume (C, D, H, W) the middle slice is shown.
    """
    values = image.detach().float().cpu()
    values = values[:, None] if values.ndim == 2 else values[:, values.shape[1] // 2] if values.ndim == 4 else values
    if normalisation is not None:
        mean, std = (torch.tensor(normalisation[key]).view(-1, 1, 1) for key in ("mean", "std"))
        values = values * std + mean
        if normalisation["scale"] != 255.0:  # arrays of any range
            values = (values - values.min()) / (values.max() - values.min()).clamp(min=1e-12)
    values = values[:3] if len(values) >= 3 else values[:1].expand(3, -1, -1)
    return np.asarray(values.clamp(0, 1).permute(1, 2, 0).numpy())


def _numbers(truths: Sequence[Any]) -> tuple[str, ...]:
    """Names for classes that have none."""
    highest = max((int(np.max(t["labels"] if isinstance(t, dict) else t, initial=0)) for t in truths), default=0)
    return tuple(map(str, range(max(highest, 255) + 1)))


def _batches(problem: PruningProblem, split: Split | LiveSplit) -> Iterator[Batch]:
    return split.batches(problem.evaluator.batch_size, device=problem.device)


def _predictions(problem: PruningProblem, model: nn.Module, split: Split | LiveSplit) -> list[Any]:
    """What a network says of every image, on the CPU."""
    found: list[Any] = []
    with evaluating(model), torch.inference_mode():
        for batch in _batches(problem, split):
            if problem.task.name == "detection":
                found += [_on_cpu(one, ("boxes", "labels", "scores")) for one in model(*problem.task.inputs(batch))]
                continue
            logits = problem.task.outputs(model, batch).float()
            classified = problem.task.name == "classification"
            found += list((logits.softmax(1) if classified else logits.argmax(1).to(torch.uint8)).cpu().numpy())
    return found


def _on_cpu(one: dict[str, torch.Tensor], keys: Sequence[str]) -> Boxes:
    return {key: one[key].detach().cpu().numpy() for key in keys}


_TARGETS: dict[str, Callable[[Batch], list[Any]]] = {
    "classification": lambda batch: batch[1].tolist(),
    "segmentation": lambda batch: list(batch[1].to(torch.uint8).cpu().numpy()),
    "detection": lambda batch: [_on_cpu(one, ("boxes", "labels")) for one in batch[1]],
}


# --- what changed ---------------------------------------------------------------------------------------------------


def _classified(truth: int, before: np.ndarray, after: np.ndarray, classes: Sequence[str]) -> Example:
    """Images whose class changed come first, then by the total variation between the probabilities."""
    was, now = int(before.argmax()), int(after.argmax())
    change = float(was != now) + float(np.abs(before - after).sum() / 2)
    words = f"{classes[was]} ({before[was]:.2f}) → {classes[now]} ({after[now]:.2f})"
    return Example(_NOTHING, truth, before, after, change, words)


def _turned(truths: Sequence[int], before: Sequence[np.ndarray], after: Sequence[np.ndarray]) -> str:
    was, now = (np.array([one.argmax() for one in side]) for side in (before, after))
    right = np.array(truths)
    lost, won = int(((was == right) & (now != right)).sum()), int(((was != right) & (now == right)).sum())
    return f" The class changed on {int((was != now).sum())}: {lost} lost, {won} won."


def _segmented(truth: np.ndarray, before: np.ndarray, after: np.ndarray, classes: Sequence[str]) -> Example:
    """By the share of the pixels that count whose class changed."""
    valid = truth != IGNORE
    change = float((before != after)[valid].mean()) if valid.any() else 0.0
    scores = []
    for side in (before, after):
        said, mask = (torch.from_numpy(array.astype(np.int64))[None] for array in (side, truth))
        scores.append(miou(image_counts(said, mask, max(len(classes), int(side.max()) + 1))))
    words = f"mIoU here {100 * scores[0]:.1f} → {100 * scores[1]:.1f}; {100 * change:.1f} % of the pixels changed"
    return Example(_NOTHING, truth, before, after, change, words)


def _detected(truth: Boxes, before: Boxes, after: Boxes, classes: Sequence[str]) -> Example:
    """By the number of boxes of one side that the other side has not."""
    both = matches(before, after)
    change = float(len(before["boxes"]) + len(after["boxes"]) - 2 * both)
    hits = [matches(truth, side) for side in (before, after)]
    false = [len(side["boxes"]) - hit for side, hit in zip((before, after), hits, strict=True)]
    words = f"found {hits[0]} → {hits[1]} of {len(truth['boxes'])}; false boxes {false[0]} → {false[1]}"
    return Example(_NOTHING, truth, before, after, change, words)


_NOTHING = np.empty((0, 0, 3))
_COMPARE: dict[str, Callable[[Any, Any, Any, Sequence[str]], Example]] = {
    "classification": _classified,
    "segmentation": _segmented,
    "detection": _detected,
}


def matches(first: Boxes, second: Boxes) -> int:
    """Pairs of boxes of one class that overlap by half, each box in one pair at most, closest pairs first."""
    if not len(first["boxes"]) or not len(second["boxes"]):
        return 0
    overlap = _overlaps(first["boxes"], second["boxes"])
    overlap[first["labels"][:, None] != second["labels"][None, :]] = 0.0
    count = 0
    while float(overlap.max()) >= OVERLAP:
        i, j = np.unravel_index(int(overlap.argmax()), overlap.shape)
        overlap[i, :], overlap[:, j] = 0.0, 0.0
        count += 1
    return count


def _overlaps(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Intersection over union of every pair, (n, m)."""
    from torchvision.ops import box_iou

    return np.asarray(box_iou(torch.from_numpy(first).double(), torch.from_numpy(second).double()).numpy())


def _above_threshold(
    truths: Sequence[Boxes], before: Sequence[Boxes], after: Sequence[Boxes]
) -> tuple[list[list[Boxes]], float]:
    """Both sides without weak detections, and the threshold.

    0.5, or lower for a network that is unsure of itself: at which the unpruned one finds as many boxes as there are.
    """
    scores = np.sort(np.concatenate([one["scores"] for one in before]))[::-1]
    wanted = sum(len(one["labels"]) for one in truths)
    lowest = float(scores[min(wanted, len(scores)) - 1]) if len(scores) and wanted else 0.5
    threshold = min(0.5, lowest)
    strong = [
        [{key: value[one["scores"] >= threshold] for key, value in one.items()} for one in side]
        for side in (before, after)
    ]
    return strong, threshold
