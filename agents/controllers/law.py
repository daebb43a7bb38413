"""What a control law sees, and what it asks for: how far the next removal goes and how long it is trained.

A law says how much goes; which filters of which layer go is the controller's affair.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True)
class Standing:
    """Where a run stands between two rounds.

    Attributes:
        tolerance: Largest drop of the control score, in its own units.
        drop: Of the last accepted network.
        share: Its MACs, a fraction of the unpruned network's.
        least: The fraction that would be left if every group gave the most it may give in one round.
        target: Fraction to end at; None goes as far as the tolerance allows.
        epochs: Training budget of the whole run.
        left: What is left of it.
        steps: Optimizer steps of an epoch.
        harm: The immediate drop, beyond the present one, of a removal down to a share, after the cheap recovery: one
            score. None where it cannot be had.
        noise: Standard error of the score, for the number of its images; 0 where it is not known.
    """

    tolerance: float
    drop: float
    share: float
    least: float
    target: float | None
    epochs: float
    left: float
    steps: float
    harm: Callable[[float], float | None]
    noise: float = 0.0

    @property
    def trained(self) -> bool:
        """Whether there was any training yet."""
        return self.left < self.epochs

    @property
    def met(self) -> bool:
        """Whether the target is reached."""
        return self.target is not None and self.share <= self.target

    @property
    def slack(self) -> float:
        """T = max(a - (E - ε), 0): what is left of the tolerance."""
        return max(self.tolerance - self.drop, 0.0)

    def reach(self, step: float, setbacks: int) -> float:
        """The share that a step (a logarithm) reaches, or 0 where a target is as well gone for at once.

        That is so where no training is to come between, or where getting there is inside the tolerance without any.
        """
        if self.target is not None and not setbacks:
            harm = 0.0 if self.epochs == 0 else self.harm(self.target)
            if harm is not None and harm <= self.slack:
                return 0.0
        return self.share * math.exp(-step)


@dataclass(frozen=True)
class Aim:
    """What the next round is to do.

    Attributes:
        share: MACs to leave, a fraction of the unpruned network's.
        epochs: Training after the removal, one annealed cycle.
        bound_by: What kept it from going further: `tolerance`, `window`, `floor`, `target`, `setback` (it goes on
            with what a larger cut has learnt); or `rest` for training alone.
        enough: Drop at which the training has done its work and may end early.
        healing: The share of the immediate drop that is expected to be left after training; None if not considered.
    """

    share: float
    epochs: float
    bound_by: str
    enough: float = -math.inf
    healing: float | None = None


class Law(Protocol):
    """Decides how far a run goes, round by round."""

    def aim(self, now: Standing) -> Aim | None:
        """The next round, or None to end."""
        ...

    def learn(self, aim: Aim, now: Standing, line: Mapping[str, Any]) -> float | None:
        """Take in how it went; returns the healing that was seen, None where it tells nothing.

        Args:
            aim: What was asked for.
            now: Where the run stood then.
            line: The round's record: `accepted`, `share`, `harm` (drop before training), `drop` (after it).
        """
        ...

    def state_dict(self) -> dict[str, Any]:
        """What it has learnt, in plain values."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there."""
        ...
