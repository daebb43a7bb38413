"""MSVFP: prune the layer whose loss suffers least; by magnitude first, by similarity later.

Ghimire and Kim 2023, *Magnitude and similarity based variable-rate filter pruning*. A trial runs the removed
network itself behind a cached prefix: exact, and faster than a mask.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import gymnasium

from rlprune.agents.controllers.base import RULES
from rlprune.agents.controllers.rounds import METHODS, FixedImages, Recipe, RoundRule, Scores, is_convolution
from rlprune.agents.runs.settings import PruneSettings
from rlprune.channels import ChannelGroup
from rlprune.criteria import CriterionContext, get_criterion, plan_from_counts
from rlprune.errors import UserError, check_rate
from rlprune.recovery import TrainSettings


def step_count(size: int, step: float) -> int:
    """Filters of `size` that one trial removes: int(size * step + 0.5).

    >>> step_count(512, 0.1), step_count(461, 0.1)
    (51, 46)
    """
    return int(size * step + 0.5)


@RULES.register("msvfp")
@dataclass
class LeastLoss(RoundRule):
    """Each round prunes one layer: the one whose trial removal leaves the smallest loss on fixed training images.

    The ranking is the L2 norm until half of the wanted reduction is reached, then the similarity of the filters; it
    takes the place of the environment's criterion.

    Attributes:
        step: Share of a layer's filters that a trial removes.
        cap: A layer that has lost this share of its filters is left alone.
        images: Training images on which the loss is measured.
        reduction: Share of the MACs that shall go; only where no target is given.
        retrain_every: Share of the MACs that goes between two brief retrainings.
        retrain_epochs: Length of one: 1 (VGG), 2 (ImageNet).
        lr: Its learning rate.
        batch_size: Images a step in it.
        amp: Mixed precision in it.
        linear: Whether linear layers are pruned too.
    """

    step: float = 0.1
    cap: float = 0.7
    images: int = 10000
    reduction: float = 0.5
    retrain_every: float = 0.03
    retrain_epochs: float = 1.0
    lr: float = 0.01
    batch_size: int = 256
    amp: bool = False
    linear: bool = False

    def __post_init__(self) -> None:
        for name in ("step", "cap", "reduction", "retrain_every"):
            check_rate(name, getattr(self, name))
        if self.images < 1:
            raise UserError(f"images is {self.images}; it must be at least 1")
        self._training = TrainSettings(
            epochs=self.retrain_epochs,
            lr=self.lr,
            batch_size=self.batch_size,
            schedule="constant",
            nesterov=True,
            amp=self.amp,
        )
        self._retrained = 0.0

    def bind(self, env: gymnasium.Env[Any, Any]) -> None:
        """Start in this environment."""
        super().bind(env)
        self._retrained = 0.0
        self._images = FixedImages(self.env.problem, self.images, seed=self.env.rules.seed)

    def state_dict(self) -> dict[str, Any]:
        """The reduction at the last retraining."""
        return {"retrained": self._retrained}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict`'s result."""
        self._retrained = state["retrained"]

    @property
    def gone(self) -> float:
        """The share of the MACs that is gone."""
        problem = self.env.problem
        return 1.0 - problem.macs(self.env.network) / problem.cost.macs()

    def plan_round(self) -> dict[str, int]:
        """The layer of the smallest loss, and how many filters it loses."""
        env = self.env
        if self.retrain_epochs > 0 and self.gone - self._retrained >= self.retrain_every - 1e-9:
            self._retrained = self.gone
            env.train(self._training, tag="msvfp")
        env.rank(self._ranking())
        counts = {group.name: self._trial(group) for group in env.prunable}
        plans = {
            name: plan_from_counts(env.network.groups, env.scores, {name: count})
            for name, count in counts.items()
            if count
        }
        if not plans:
            return {}
        losses = self._images.losses(env.network, plans)
        name = min(losses, key=lambda name: losses[name])
        return {name: counts[name]}

    def _ranking(self) -> Scores:
        network, budget = self.env.network, self.env.rules.budget
        criterion = get_criterion("msvfp", {"target": self.reduction if budget is None else 1.0 - budget})
        return criterion.scores(CriterionContext(network.model, network.groups, reduction=self.gone))

    def _trial(self, group: ChannelGroup) -> int:
        """What a trial takes from a group: a step while it is below its cap (the last step may pass it)."""
        if not self.linear and not is_convolution(group, self.env.network.groups):
            return 0
        whole = self.env.problem.groups[group.name].size
        below = whole - group.size < self.cap * whole
        return group.allowed(step_count(group.size, self.step)) if below else 0


METHODS.register("msvfp")(
    Recipe(
        "MSVFP: a step of one layer at a time, the one that costs the least loss; L2 norm, then similarity",
        PruneSettings(
            method="msvfp",
            controller="msvfp",
            criterion="l2",
            recovery="none",
            max_rate=1.0,
            check="end",
            skip=("residual",),
            finetune=TrainSettings(
                epochs=160.0,
                lr=0.01,
                schedule="step",
                milestones=(40.0, 80.0, 120.0),
                gamma=0.2,
                batch_size=256,
                nesterov=True,
            ),
        ),
    )
)
