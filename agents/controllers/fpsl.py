"""FPSL: one threshold for the whole network, a little each epoch.

Mondal et al. 2023, *Filter pruning by successive layers analysis*. At the start of every epoch all filters of all
layers that are not at their floor are scored together, the lowest p go, and the network is trained for an epoch; at
the MACs target pruning stops and training goes on. The paper trains 300 epochs in all at a learning rate of 0.1, times
0.1 at 150 and 225. Reaching half of the MACs takes some 70 of them, so the recipe's fine-tuning has 230, with its
steps at 80 and 155. Momentum starts anew with each epoch of the pruning phase, since its parameters are new.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rlprune.agents.controllers.base import RULES
from rlprune.agents.controllers.rounds import METHODS, Recipe, RoundRule, is_convolution
from rlprune.agents.runs.settings import PruneSettings
from rlprune.errors import check_rate
from rlprune.recovery import TrainSettings


def threshold(pool: Sequence[float], share: float) -> float:
    """The score sorted(pool)[int(share * |pool|) - 1]; minus infinity where share * |pool| < 1: then nothing goes.

    >>> threshold([4.0, 1.0, 3.0, 2.0], 0.5)
    2.0
    >>> threshold([4.0, 1.0, 3.0, 2.0], 0.2)
    -inf
    """
    number = int(share * len(pool) + 1e-9)
    return sorted(pool)[number - 1] if number else -np.inf


@RULES.register("fpsl")
@dataclass
class GlobalThreshold(RoundRule):
    """Every round removes the lowest share of all filters, whatever their layer; no layer has a rate of its own.

    Attributes:
        share: p, the share of the pool that a round removes: 0.01 (CIFAR), 0.007 (ResNet-32), 0.025 (ImageNet).
        linear: Whether filters of linear layers are in the pool too.
    """

    share: float = 0.01
    linear: bool = False

    def __post_init__(self) -> None:
        check_rate("share", self.share)

    def plan_round(self) -> dict[str, int]:
        """Scores at or below the threshold go, but for the filters that a layer must keep."""
        env = self.env
        pool = {
            group.name: group.max_removable
            for group in env.prunable
            if group.max_removable and (self.linear or is_convolution(group, env.network.groups))
        }
        limit = threshold([float(score) for name in pool for score in env.scores[name]], self.share)
        return {name: min(int((env.scores[name] <= limit).sum()), most) for name, most in pool.items()}


METHODS.register("fpsl")(
    Recipe(
        "FPSL: one global threshold on successive layers' norms, an epoch of training after each small removal",
        PruneSettings(
            method="fpsl",
            controller="fpsl",
            criterion="fpsl",
            recovery="finetune",
            round_epochs=1.0,
            lr=0.1,
            batch_size=256,
            max_rate=1.0,
            check="end",
            skip=("residual",),
            total_epochs=300.0,
            finetune=TrainSettings(epochs=300.0, lr=0.1, schedule="step", milestones=(150.0, 225.0), batch_size=256),
        ),
    )
)
