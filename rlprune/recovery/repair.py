"""Train a pruned network until it is back inside the tolerance, and no longer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from torch import nn

from rlprune.recovery.steps import Recovery
from rlprune.seeding import derive
from rlprune.tasks import score_drop
from rlprune.training.loop import train
from rlprune.training.settings import TrainSettings

if TYPE_CHECKING:
    from rlprune.channels import PruningPlan
    from rlprune.problem import PrunedNetwork, PruningProblem


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

    @property
    def key(self) -> str:
        """What it does now, as text."""
        return f"{super().key} until {self.tolerance} in {self.epochs}"

    def apply(
        self, before: PrunedNetwork, after: PrunedNetwork, plan: PruningPlan, problem: PruningProblem, seed: int
    ) -> None:
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
        state = {name: value.detach().clone() for name, value in after.model.state_dict().items()}
        report = train(
            after.model,
            problem.task,
            problem.data.train,
            replace(self.settings, epochs=self.epochs, schedule="restarts"),
            seed=derive(seed, "repair"),
            monitor=gain,
            enough=-self.tolerance,
            device=str(problem.device),
            ledger=problem.ledger,
            on_step=show,
        )
        if report.scores[report.best_epoch] < untrained:
            after.model.load_state_dict(state)
