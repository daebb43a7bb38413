"""Train a pruned network until it is back inside the tolerance, and no longer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from torch import Tensor, nn

from rlprune.recovery.settings import TrainSettings
from rlprune.recovery.steps import Recovery
from rlprune.recovery.training import train
from rlprune.seeding import derive

if TYPE_CHECKING:
    from rlprune.channels import PruningPlan
    from rlprune.problem import PrunedNetwork, PruningProblem


class RepairUntil(Recovery):
    """A recovery that trains only where the cheap ones are not enough (AFP/PRC, Singh et al. 2020; reconstructed).

    After `first`, the network is scored on the control split; while its drop is above the tolerance it is trained, an
    epoch at a time, each with a cosine of its own so that every epoch ends where it can be judged. If the epochs are
    spent before that, the best of them is what comes out: on few control images scores go up and down.

    Args:
        first: The recovery applied before any training.
        settings: How to train; its `epochs` is ignored.
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

    def apply(
        self, before: PrunedNetwork, after: PrunedNetwork, plan: PruningPlan, problem: PruningProblem, seed: int
    ) -> None:
        """Repair `after.model` in place."""
        super().apply(before, after, plan, problem, seed)
        goal, left, number = problem.baseline.value - self.tolerance, self.epochs, 0
        score = best = problem.evaluator.score(after.model, "control").value
        kept = _copy(after.model)
        while left > 0 and score < goal:
            number += 1
            share = min(1.0, left)

            def show(done: float, number: int = number) -> None:
                if self.progress is not None:
                    self.progress(f"repair, epoch {number} of at most {self.epochs:g}", done, 1.0)

            train(
                after.model,
                problem.task,
                problem.data.train,
                replace(self.settings, epochs=share, schedule="cosine"),
                seed=derive(seed, "repair", number),
                device=str(problem.device),
                ledger=problem.ledger,
                on_step=show,
            )
            left -= share
            score = problem.evaluator.score(after.model, "control").value
            if score > best:
                best, kept = score, _copy(after.model)
        if score < best:
            after.model.load_state_dict(kept)


def _copy(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}
