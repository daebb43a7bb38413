"""Penalties on the weights, added to the loss while training: callables from the network to a scalar tensor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from rlprune.channels import ChannelGroups
from rlprune.measuring.unfolding import Unfoldable, Unfolding


class FilterL1:
    """``weight * sum of |f|_1`` over chosen filters: what AFP adds to the loss for the set U.

    Singh et al. 2020, *Acceleration of deep convolutional neural networks using adaptive filter pruning*. The
    penalty is reconstructed. It drives the information out of filters that are about to go.

    Args:
        groups: The groups of the network that will be trained.
        selected: Units by group; their filters in every producer of the group are penalised (biases are not).
        weight: λ_A, >= 0.
    """

    def __init__(self, groups: ChannelGroups, selected: Mapping[str, Sequence[int]], weight: float) -> None:
        self.weight = weight
        weights = {layer.weight for layer in groups.layers.values()}
        self._rows: list[tuple[str, int, Tensor]] = []
        for name, units in selected.items():
            for slot in groups[name].slots:
                if slot.role == "out" and slot.tensor in weights and len(units):
                    rows = np.unique(slot.index[np.asarray(units, dtype=np.int64)])
                    self._rows.append((slot.tensor, slot.dim, torch.from_numpy(rows)))

    def __call__(self, model: nn.Module) -> Tensor:
        """The penalty as it is now."""
        total = torch.zeros((), device=next(model.parameters()).device)
        if self.weight == 0:
            return total
        for tensor, dim, rows in self._rows:
            total = total + model.get_parameter(tensor).index_select(dim, rows.to(total.device)).abs().sum()
        return self.weight * total


class Orthogonality:
    """``weight * sum over layers of |M Mᵀ − I|_F²``, the rows of M being a conv's filters, flattened, of unit norm.

    Singh et al. 2020 train with an orthogonality penalty; its form here is reconstructed. Filters in different groups
    of a grouped conv read different inputs and are orthogonal as they are: M is taken per conv group. Linear layers
    are left out.

    Args:
        weight: λ_o, >= 0.
    """

    def __init__(self, weight: float) -> None:
        self.weight = weight

    def __call__(self, model: nn.Module) -> Tensor:
        """The penalty as it is now."""
        total = torch.zeros((), device=next(model.parameters()).device)
        if self.weight == 0:
            return total
        for layer in model.modules():
            if isinstance(layer, Unfoldable) and not isinstance(layer, nn.Linear) and layer.weight.requires_grad:
                rows = nn.functional.normalize(Unfolding.of(layer).matrix(layer.weight), dim=2)
                excess = rows @ rows.transpose(1, 2) - torch.eye(rows.shape[1], device=rows.device)
                total = total + excess.square().sum()
        return self.weight * total
