"""Pictures of an episode: a bar for every group, its filters before and now."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlprune.report.plots import blank

Bar = tuple[str, int, int]  # group, filters in the unpruned network, filters now


def write(title: str, bars: Sequence[Bar], width: int = 40) -> str:
    """The bars as text.

    >>> print(write("MACs 0.60", [("conv1", 8, 6), ("conv2", 16, 4)], width=8))
    MACs 0.60
    conv1  ######..    6 /    8
    conv2  ##......    4 /   16
    """
    pad = max((len(name) for name, _, _ in bars), default=0)
    lines = [title]
    for name, before, now in bars:
        full = round(width * now / max(1, before))
        lines.append(f"{name:<{pad}}  {'#' * full}{'.' * (width - full)} {now:>4} / {before:>4}")
    return "\n".join(lines)


def draw(title: str, bars: Sequence[Bar], size: tuple[int, int] = (640, 360)) -> NDArray[np.uint8]:
    """The bars as an image (height, width, 3); `size` is (width, height) in pixels."""
    figure = blank(size[0] / 100, size[1] / 100, dots=100)
    axes: Any = figure.subplots()
    places = np.arange(len(bars))
    axes.bar(places, [before for _, before, _ in bars], color="#d0d5dd", label="before")
    axes.bar(places, [now for _, _, now in bars], color="#2f6fb0", label="now")
    axes.set_title(title, fontsize=8)
    axes.set_ylabel("filters", fontsize=8)
    axes.set_xlabel("channel group, in execution order", fontsize=8)
    axes.tick_params(labelsize=7)
    axes.legend(fontsize=7)
    canvas: Any = figure.canvas
    canvas.draw()
    image: NDArray[np.uint8] = np.asarray(canvas.buffer_rgba())[..., :3].copy()
    return image
