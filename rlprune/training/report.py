"""What a training run did."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class TrainReport:
    """What a training run did.

    Attributes:
        losses: Mean loss of every epoch.
        scores: The monitor's value after every epoch, if there is a monitor.
        best_epoch: The epoch (from 0) whose weights came out, if the monitor chose; else the last. -1: none, the
            weights are those that went in.
        steps: Optimizer steps.
        images: Images seen.
        stopped_early: Whether patience ran out, the score was enough, or the run was called hopeless.
        layout: Memory layout that was trained in, "contiguous" or "channels_last"; empty before the first step.
        amp: Whether it was in mixed precision.
    """

    losses: list[float] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    best_epoch: int = -1
    steps: int = 0
    images: int = 0
    stopped_early: bool = False
    layout: str = ""
    amp: bool = False
