"""FPSL: one threshold for the whole network, a little each epoch.

Mondal et al. 2023, *Filter pruning by successive layers analysis*. At the start of every epoch all filters of all
layers that are not at their floor are scored together, the lowest p go, and the network is trained for an epoch; at
the MACs target pruning stops and training goes on. Momentum starts anew with each epoch of the pruning phase, since
its parameters are new.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from rlprune.agents.controllers.base import RoundRule
from rlprune.agents.controllers.rounds import aimed, counts_of, first_to_meet, global_order, is_convolution
from rlprune.errors import check_rate


def threshold(pool: Sequence[float], number: int) -> float:
    """The score sorted(pool)[number - 1]; minus infinity for 0: then nothing goes.

    >>> threshold([4.0, 1.0, 3.0, 2.0], 2)
    2.0
    >>> threshold([4.0, 1.0, 3.0, 2.0], 0)
    -inf
    """
    return sorted(pool)[number - 1] if number else -np.inf


@dataclass
class GlobalThreshold(RoundRule):
    """Every round removes the lowest share of all filters, whatever their layer; no layer has a rate of its own.

    Attributes:
        share: p, the share of the pool that a round removes: 0.01 (CIFAR), 0.007 (ResNet-32), 0.025 (ImageNet). What
            is less than a filter adds up over the rounds.
        linear: Whether filters of linear layers are in the pool too.
    """

    share: float = 0.01
    linear: bool = False
    remembered: ClassVar[tuple[str, ...]] = ("_owed",)  # of a filter, the part that should have gone by now

    def __post_init__(self) -> None:
        check_rate("share", self.share)
        self._owed = 0.0

    def bind(self, env: Any) -> None:
        """Start in this environment."""
        super().bind(env)
        self._owed = 0.0

    def plan(self) -> dict[str, int]:
        """Scores at or below the threshold go, but for the filters that a layer must keep.

        Where that is too little of every layer for the multiples that widths stay, the next rounds' shares go along.
        """
        env = self.env
        pool = {
            group.name: group.max_removable
            for group in env.prunable
            if group.max_removable and (self.linear or is_convolution(group, env.network.groups))
        }
        if aimed(env):
            order = global_order(env, {name: env.scores[name] for name in (pool or env.scores)})
            return counts_of(order[: first_to_meet(env, order)])
        scores = [float(score) for name in pool for score in env.scores[name]]
        while True:
            self._owed += self.share * len(scores)
            number = min(int(self._owed + 1e-9), len(scores))
            limit = threshold(scores, number)
            counts = {name: min(int((env.scores[name] <= limit).sum()), most) for name, most in pool.items()}
            if not any(counts.values()) or any(env.feasible(counts).values()) or number == len(scores):
                self._owed -= number
                return counts
