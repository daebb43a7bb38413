"""MSVFP: prune the layer whose loss suffers least; by magnitude first, by similarity later.

Ghimire and Kim 2023, *Magnitude and similarity based variable-rate filter pruning*. A trial runs the removed
network itself behind a cached prefix: exact, and faster than a mask.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import gymnasium
import numpy as np

from rlprune.agents.controllers.base import RoundRule
from rlprune.agents.controllers.images import FixedImages
from rlprune.agents.controllers.rounds import Scores, aimed, is_convolution
from rlprune.channels import ChannelGroup, PruningPlan
from rlprune.criteria import CriterionContext, get_criterion, lowest, plan_from_counts
from rlprune.errors import check_count, check_rate
from rlprune.network import Network
from rlprune.training.settings import TrainSettings


def step_count(size: int, step: float) -> int:
    """Filters of `size` that one trial removes: int(size * step + 0.5).

    >>> step_count(512, 0.1), step_count(461, 0.1)
    (51, 46)
    """
    return int(size * step + 0.5)


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
        linear: Whether linear layers are pruned too.
    """

    step: float = 0.1
    cap: float = 0.7
    images: int = 10000
    reduction: float = 0.5
    retrain_every: float = 0.03
    linear: bool = False
    remembered: ClassVar[tuple[str, ...]] = ("_retrained",)  # the reduction at the last retraining

    def __post_init__(self) -> None:
        for name in ("step", "cap", "reduction", "retrain_every"):
            check_rate(name, getattr(self, name))
        check_count("images", self.images)
        self._retrained = 0.0

    def bind(self, env: gymnasium.Env[Any, Any]) -> None:
        """Start in this environment."""
        super().bind(env)
        self._retrained = 0.0
        self._images = FixedImages(self.env.problem, self.images, seed=self.env.rules.seed)

    @property
    def gone(self) -> float:
        """The share of the MACs that is gone."""
        problem = self.env.problem
        return 1.0 - problem.macs(self.env.network) / problem.cost.macs()

    def plan(self) -> dict[str, int]:
        """The layer of the smallest loss, and how many filters it loses; to an aim, one layer after the other."""
        env = self.env
        press = self.press or TrainSettings(epochs=1.0, batch_size=256, schedule="constant", nesterov=True)
        if press.epochs > 0 and self.gone - self._retrained >= self.retrain_every - 1e-9 and not aimed(env):
            self._retrained = self.gone
            env.train(press, tag="msvfp")
        env.rank(self._ranking())
        counts, network = dict[str, int](), env.network
        while True:
            name, count = self._step(network, counts)
            if not count:
                return counts
            counts[name] = counts.get(name, 0) + count
            if not aimed(env):
                return counts
            network = env.network.remove(plan_from_counts(env.network.groups, env.scores, counts), env.problem.groups)
            if env.problem.macs(network) <= (env.budget.target or 0):
                return counts

    def _step(self, network: Network, counts: Mapping[str, int]) -> tuple[str, int]:
        """The layer whose trial removal from `network`, which lacks `counts` already, leaves the smallest loss."""
        groups, scores = network.groups, self.env.scores
        trials = {group.name: self._trial(groups[group.name]) for group in self.env.prunable}
        plans = {}
        for name, count in trials.items():
            if count:
                gone = np.array(lowest(scores[name], counts.get(name, 0)), dtype=np.int64)
                left = np.delete(scores[name], gone)
                plans[name] = PruningPlan({name: lowest(left, count)})
        if not plans:
            return "", 0
        losses = self._images.losses(network, plans)
        name = min(losses, key=lambda name: losses[name])
        return name, trials[name]

    def _ranking(self) -> Scores:
        network, budget = self.env.network, self.env.rules.budget
        criterion = get_criterion("msvfp", {"target": self.reduction if budget is None else 1.0 - budget})
        return criterion.scores(CriterionContext(network.model, network.groups, reduction=self.gone))

    def _trial(self, group: ChannelGroup) -> int:
        """What a trial takes from a group: a step while it is below its cap (the last step may pass it).

        A step smaller than what leaves a multiple of `round_to` takes that much.
        """
        if not self.linear and not is_convolution(group, self.env.network.groups):
            return 0
        whole = self.env.problem.groups[group.name].size
        below = whole - group.size < self.cap * whole
        least = (group.size - 1) % group.round_to + 1 if group.round_to > 1 else 0
        return group.allowed(max(step_count(group.size, self.step), least)) if below else 0
