"""Network slimming: an L1 penalty on the batch norms' scales sorts the channels, one percentile cuts them.

Liu et al. 2017, *Learning efficient convolutional networks through network slimming*. The weight of the penalty and the
percentile are the paper's; here the sparsity training starts from the trained network, and its length is ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from rlprune.agents.controllers.base import RoundRule
from rlprune.agents.controllers.rounds import aimed, counts_of, first_to_meet, global_order
from rlprune.channels import ChannelGroups
from rlprune.criteria.norm_scale import norm_scale_slots
from rlprune.errors import UserError, check_rate
from rlprune.training.settings import TrainSettings


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


@dataclass
class Slimming(RoundRule):
    """Trains under the penalty, then removes the channels of the smallest scales, whatever their layer, at once.

    Attributes:
        penalty: s, the weight of the L1 norm: 1e-4 (VGG), 1e-5 (ResNet).
        percentile: Share of all channels that goes; only where no target is given.
    """

    penalty: float = 1e-4
    percentile: float = 0.7

    def __post_init__(self) -> None:
        check_rate("percentile", self.percentile)
        if not 0 <= self.penalty < float("inf"):
            raise UserError(f"penalty is {self.penalty}; it must be a finite number >= 0")

    def plan(self) -> Mapping[str, int]:
        """What lies below the percentile, or the fewest channels that meet the budget; nothing after one round."""
        env = self.env
        if env.round > 0 and not aimed(env):
            return {}
        groups = env.network.groups
        normed = {group.name for group in env.prunable if norm_scale_slots(env.network.model, group)}
        if not normed:
            raise UserError(
                "slimming needs batch norms whose scales can be trained, and this network has none; try it on "
                "resnet20, vgg16 or mobilenet_v1, or take another method"
            )
        press = self.press or TrainSettings(epochs=40.0, batch_size=64, weight_decay=1e-4, nesterov=True)
        if press.epochs > 0:
            env.train(press, [ScaleL1(env.network.model, groups, self.penalty)], tag="slimming")
        scores = {name: env.scores[name] for name in normed}
        order = global_order(env, scores)
        total = sum(len(values) for values in scores.values())
        most = int(self.percentile * total + 1e-9) if env.budget.target is None else first_to_meet(env, order)
        return counts_of(order[:most])
