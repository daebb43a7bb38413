"""Pictures of control images with the truth and what a network said of them before and after pruning."""

from __future__ import annotations

import colorsys
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from rlprune.report.examples import Boxes, Example, Examples
from rlprune.report.plots import blank
from rlprune.tasks.segmentation import IGNORE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Told apart by most people, in this order (after Trubetskoy, 20 simple, distinct colors); red is what became wrong
_COLOURS = [
    "#42d4f4", "#4363d8", "#3cb44b", "#f58231", "#ffe119", "#911eb4", "#2e4600", "#f032e6", "#bfef45", "#9a6324",
    "#469990", "#fabed4", "#800000", "#aaffc3", "#808000", "#dcbeff", "#000075", "#ffd8b1", "#a9a9a9", "#fffac8",
]  # fmt: skip
PICTURES = "pictures.png"
"""What the file in a run folder is called."""

_COLUMN = 2.2  # inches
_LOST, _WON, _STILL = "#e6194b", "#00e0c0", "#8d99a6"


def draw_examples(examples: Examples) -> Figure:
    """A row for every example; classification has a small picture for each instead."""
    if examples.task == "classification":
        return _classified(examples)
    segmented = examples.task == "segmentation"
    heads = ["truth", "before pruning", "after pruning", *(["what changed"] if segmented else [])]
    aspect = float(np.median([one.image.shape[0] / one.image.shape[1] for one in examples.chosen]))
    height = len(examples.chosen) * (_COLUMN * aspect + 0.2) + 0.6
    figure = blank(_COLUMN * len(heads), height, dots=110)
    rows = figure.subplots(len(examples.chosen), len(heads), squeeze=False)
    for example, row in zip(examples.chosen, rows, strict=True):
        for axes in row:
            _bare(axes)
        row[0].set_xlabel(example.words, loc="left", fontsize=8, labelpad=2)
        (_segmented if segmented else _detected)(row, example, examples.classes)
    for axes, head in zip(rows[0], heads, strict=True):
        axes.set_title(head, fontsize=9)
    _legend(figure, examples, segmented)
    return figure


def colour(index: int) -> tuple[float, float, float]:
    """Red, green, blue of a class; beyond the twentieth the hue goes round by the golden ratio."""
    if index < len(_COLOURS):
        return _rgb(_COLOURS[index])
    return colorsys.hsv_to_rgb(index * 0.618034 % 1.0, 0.55 + 0.4 * (index % 2), 0.95)


def overlay(image: np.ndarray, mask: np.ndarray, classes: Sequence[str], strength: float = 0.5) -> np.ndarray:
    """The image (H, W, 3) with every class in its colour, but for a background, and what is ignored darkened."""
    shown: np.ndarray = image.copy()
    for index in np.unique(mask):
        there = mask == index
        if index == IGNORE:
            shown[there] *= 0.35
        elif not is_background(int(index), classes):
            shown[there] = (1 - strength) * shown[there] + strength * np.array(colour(int(index)))
    return shown


def is_background(index: int, classes: Sequence[str]) -> bool:
    """Whether a class is what is left over: the first, if it says so or is one of just two."""
    return index == 0 and ("background" in classes[0] or len(classes) == 2)


def _segmented(row: Sequence[Axes], example: Example, classes: Sequence[str]) -> None:
    for axes, mask in zip(row, (example.truth, example.before, example.after), strict=False):
        axes.imshow(overlay(example.image, mask, classes))
    was, now = (side == example.truth for side in (example.before, example.after))
    changed = (example.before != example.after) & (example.truth != IGNORE)
    shown = np.repeat(0.25 + 0.5 * example.image.mean(axis=2, keepdims=True), 3, axis=2)
    for there, paint in ((changed & was, _LOST), (changed & now, _WON), (changed & ~was & ~now, _STILL)):
        shown[there] = _rgb(paint)
    row[3].imshow(shown)


def _detected(row: Sequence[Axes], example: Example, classes: Sequence[str]) -> None:
    for axes, side in zip(row, (example.truth, example.before, example.after), strict=True):
        axes.imshow(example.image)
        if side is not example.truth:
            _boxes(axes, example.truth, classes, faint=True)
        _boxes(axes, side, classes)


def _boxes(axes: Axes, boxes: Boxes, classes: Sequence[str], *, faint: bool = False) -> None:
    """Detections with class and score; the truth, which has no scores, is dashed, and white where it is `faint`."""
    from matplotlib.patches import Rectangle

    scores = boxes.get("scores")
    for i, (left, top, right, bottom) in enumerate(boxes["boxes"]):
        label = int(boxes["labels"][i])
        style: Mapping[str, Any] = {"edgecolor": colour(label), "linewidth": 1.3}
        if scores is None:
            paint = "white" if faint else colour(label)
            style = {"edgecolor": paint, "linestyle": (0, (3, 2)), "linewidth": 0.9 if faint else 1.3}
        axes.add_patch(Rectangle((left, top), right - left, bottom - top, fill=False, **style))
        if scores is not None:
            name = classes[label] if label < len(classes) else str(label)
            axes.text(
                left, top, f"{name} {scores[i]:.2f}", fontsize=4.5, color="white", va="bottom", clip_on=True,
                bbox={"facecolor": colour(label), "edgecolor": "none", "pad": 0.6, "alpha": 0.85},
            )  # fmt: skip


def _classified(examples: Examples) -> Figure:
    columns = min(3, len(examples.chosen))
    rows = -(-len(examples.chosen) // columns)
    figure = blank(_COLUMN * columns, rows * (_COLUMN + 0.5))
    for axes in (every := figure.subplots(rows, columns, squeeze=False).ravel()):
        _bare(axes)
        axes.set_visible(False)
    for axes, example in zip(every, examples.chosen, strict=False):
        axes.set_visible(True)
        axes.imshow(example.image, interpolation="nearest" if len(example.image) <= 64 else None)
        right = int(example.after.argmax()) == example.truth
        axes.set_title(f"is {examples.classes[example.truth]}", fontsize=9, loc="left")
        axes.set_xlabel(example.words, fontsize=8, color="#12704f" if right else "#b3261e")
    return figure


def _legend(figure: Figure, examples: Examples, segmented: bool) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    names, handles = examples.classes, list[Any]()
    for index in sorted(set(_labels(examples))):
        label = names[index] if index < len(names) else str(index)
        if not segmented:
            handles.append(Line2D([], [], color=colour(index), label=label))
        elif index != IGNORE and not is_background(index, names):
            handles.append(Patch(facecolor=colour(index), label=label))
    if segmented:
        kinds = {"became wrong": _LOST, "became right": _WON, "wrong both times": _STILL}
        handles += [Patch(facecolor=paint, label=name) for name, paint in kinds.items()]
    else:
        handles.append(Line2D([], [], color="#6b7683", linestyle=(0, (3, 2)), label="truth"))
    figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 5), fontsize=8, frameon=False)


def _labels(examples: Examples) -> Iterator[int]:
    """The classes in the pictures."""
    for one in examples.chosen:
        for side in (one.truth, one.before, one.after):
            yield from np.unique(side["labels"] if isinstance(side, dict) else side).tolist()


def _rgb(text: str) -> tuple[float, float, float]:
    red, green, blue = (int(text[i : i + 2], 16) / 255 for i in (1, 3, 5))
    return red, green, blue


def _bare(axes: Axes) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)
