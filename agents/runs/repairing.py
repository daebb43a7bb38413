"""Train a pruned network until it is back inside the tolerance, and no longer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from torch import nn

from rlprune.channels import PruningPlan
from rlprune.network import Network
from rlprune.recovery import Bench, Recovery, TrainSettings, train
from rlprune.seeding import derive
from rlprune.tasks import score_drop


class RepairUntil(Recovery):
    """A recovery that trains only where the cheap ones are not enough (AFP/PRC, Singh et al. 2020; reconstructed).

    After `first`, the network is scored on the control split; while its drop is above the tolerance it is trained, each
    epoch with a cosine of its own so that it ends where it can be judged. If the epochs are spent before that, the best
    of them is what comes out, or the untrained network: on few control images scores go up and down.

    Args:
        first: The recovery applied before any training.
        settings: How to train; its `epochs` and `schedule` are ignored.
        tolerance: The drop to come back to.
        epochs: Most epochs to spend on one removal; may be a fraction.
        progress: Told what goes on, with what is done and what there is to do.
    """

    def __init__(
        self,
        first: Recovery,
        settings: TrainSettings,
        tolerance: float,
        epochs: float,
        progress: Callable[[str, float, float], None] | None = None,
    ) -> None:
        super().__init__(first.names, settings)
        self.tolerance = tolerance
        self.epochs = epochs
        self.progress = progress

    def apply(self, before: Network, after: Network, plan: PruningPlan, problem: Bench, seed: int) -> None:
        """Repair `after.model` in place."""
        super().apply(before, after, plan, problem, seed)

        def gain(model: nn.Module) -> float:
            return -score_drop(problem.baseline.value, problem.evaluator.score(model, "control").value)

        def show(done: float) -> None:
            if self.progress is not None:
                self.progress(f"repair, at most {self.epochs:g} epochs", done, 1.0)

        untrained = gain(after.model)
        if untrained >= -self.tolerance or self.epochs == 0:
            return
        train(
            after.model,
            problem.task,
            problem.data.train,
            replace(self.settings, epochs=self.epochs, schedule="restarts"),
            seed=derive(seed, "repair"),
            monitor=gain,
            start=untrained,
            enough=-self.tolerance,
            device=str(problem.device),
            ledger=problem.ledger,
            on_step=show,
        )
