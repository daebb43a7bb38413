"""A network with its channel groups and what was removed from it so far."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from torch import nn

from rlprune.channels import ChannelGroups, PruningPlan, remove_channels
from rlprune.channels.copying import duplicate


@dataclass(eq=False)
class Network:
    """A network, pruned or not.

    Attributes:
        model: The network as it is now.
        groups: Its channel groups, numbered as `model` is now.
        plan: Everything removed so far, numbered as the base network is.
    """

    model: nn.Module
    groups: ChannelGroups
    plan: PruningPlan = field(default_factory=PruningPlan)

    def remove(self, plan: PruningPlan, base: ChannelGroups) -> Network:
        """A smaller copy without the channels of `plan`, numbered as `model` is now; `base`: the unpruned groups."""
        return Network(
            model=remove_channels(self.model, self.groups, plan),
            groups=self.groups.after(plan),
            plan=self.plan.then(plan, base),
        )

    def copy(self) -> Network:
        """An independent copy: training it leaves this one alone."""
        return replace(self, model=duplicate(self.model))
