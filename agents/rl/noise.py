"""Exploration noise that AMC uses."""

from __future__ import annotations

import numpy as np
from numpy.typing import DTypeLike, NDArray
from stable_baselines3.common.noise import ActionNoise


class DecayingNoise(ActionNoise):
    """Gaussian noise whose spread falls with every episode: spread * factor ** max(0, episode - after).

    AMC (He et al. 2018, section 4): spread 0.5 of an action range of length 1, factor 0.95 from the end of the warm-up
    of 100 episodes. Our actions range over 2, so the same noise has spread 1. AMC truncates it to the range, where
    Stable-Baselines3 clips the sum.

    Args:
        spread: Standard deviation at the start.
        factor: What it is multiplied by with every episode.
        after: Episodes before it begins to fall.
    """

    def __init__(self, spread: float, factor: float, after: int) -> None:
        super().__init__()
        self.spread, self.factor, self.after = spread, factor, after
        self.episode = -1  # the reset before the first episode makes it 0

    @property
    def now(self) -> float:
        """The current standard deviation."""
        return float(self.spread * self.factor ** max(0, self.episode - self.after))

    def __call__(self, dtype: DTypeLike = np.float32) -> NDArray[np.float32]:
        """A draw, (1,)."""
        return np.random.normal(0.0, self.now, 1).astype(dtype)

    def reset(self) -> None:
        """An episode has ended."""
        self.episode += 1
