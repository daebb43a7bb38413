"""Network slimming: an L1 penalty on the batch norms' scales sorts the channels, one percentile cuts them.

Liu et al. 2017, *Learning efficient convolutional networks through network slimming*. The weight of the penalty and the
percentile are the paper's; here the sparsity training starts from the trained network, and its length is ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from rlprune.agents.controllers.base import RULES
from rlprune.agents.controllers.rounds import METHODS, Recipe, RoundRule, counts_of, first_to_meet, global_order
from rlprune.agents.runs.settings import PruneSettings
from rlprune.channels import ChannelGroups
from rlprune.criteria.norm_scale import norm_scale_slots
from rlprune.errors import UserError, check_rate
from rlprune.recovery import TrainSettings


class ScaleL1:
    """``weight * sum of |γ|`` over the norms of all prunable channels (Liu et al. 2017, equation 1).

    Args:
        model: The network that will be trained.
        groups: Its groups.
        weight: s, >= 0.
    """

    def __init__(self, model: nn.Module, groups: ChannelGroups, weight: float) -> None:
        self.weight = weight
        slots = [slot for group in groups.prunable for slot in norm_scale_slots(model, group)]
        self.names = sorted({slot.tensor for slot in slots})

    def __call__(self, model: nn.Module) -> Tensor:
        """The penalty as it is now."""
        return self.weight * torch.stack([model.get_parameter(name).abs().sum() for name in self.names]).sum()


@RULES.register("slimming")
@dataclass
class Slimming(RoundRule):
    """Trains under the penalty, then removes the channels of the smallest scales, whatever their layer, at once.

    Attributes:
        penalty: s, the weight of the L1 norm: 1e-4 (VGG), 1e-5 (ResNet).
        percentile: Share of all channels that goes; only where no target is given.
        epochs: Length of the sparsity training.
        lr: Its learning rate.
        batch_size: Images a step in it.
        amp: Mixed precision in it.
    """

    penalty: float = 1e-4
    percentile: float = 0.7
    epochs: float = 40.0
    lr: float = 0.01
    batch_size: int = 64
    amp: bool = False

    def __post_init__(self) -> None:
        check_rate("percentile", self.percentile)
        if not 0 <= self.penalty < float("inf"):
            raise UserError(f"penalty is {self.penalty}; it must be a finite number >= 0")
        self._training = TrainSettings(
            epochs=self.epochs,
            lr=self.lr,
            batch_size=self.batch_size,
            weight_decay=1e-4,
            nesterov=True,
            amp=self.amp,
        )

    def plan_round(self) -> Mapping[str, int]:
        """What lies below the percentile, or the fewest channels that meet the budget; nothing after one round."""
        env = self.env
        if env.round > 0:
            return {}
        groups = env.network.groups
        normed = {group.name for group in env.prunable if norm_scale_slots(env.network.model, group)}
        if not normed:
            raise UserError("slimming needs batch norms whose scales can be trained; this network has none: try l1")
        if self.epochs > 0:
            env.train(self._training, [ScaleL1(env.network.model, groups, self.penalty)], tag="slimming")
        scores = {name: env.scores[name] for name in normed}
        order = global_order(env, scores)
        total = sum(len(values) for values in scores.values())
        most = int(self.percentile * total + 1e-9) if env.budget.target is None else first_to_meet(env, order)
        return counts_of(order[:most])


METHODS.register("slimming")(
    Recipe(
        "Network slimming: L1 on batch-norm scales while training, one global percentile, then fine-tuning",
        PruneSettings(
            method="slimming",
            controller="slimming",
            criterion="bn_scale",
            recovery="none",
            max_rate=1.0,
            one_shot=True,
            check="end",
            skip=("residual",),
            finetune=TrainSettings(epochs=40.0, lr=0.01, batch_size=64, weight_decay=1e-4, nesterov=True),
        ),
    )
)
