"""What removing a group's lowest filters does to the layers that read it, for every number of them at once.

The readers are thought of as refitted by least squares. With C the covariance of a reader's inputs, ordered so that
what is removed first comes last, C = L L^T and W its weight, the squared error that is left after the inputs from k on
are gone and the others refitted is ``sum_{j >= k} |(L^T W)_j|^2``: the trailing block of L is the factor of the Schur
complement. So one factorisation gives the error for all k. It sees the data by the Gram matrices alone, and costs no
evaluation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rlprune.channels import ChannelGroups
from rlprune.criteria.combining import weight_slots
from rlprune.criteria.reconstruction import norm_scale, readings
from rlprune.measuring.grams import Factor, GramStore, LayerGram
from rlprune.measuring.solving import STRIP, WIDE, ridge_factor

RIDGE = 1e-6  # added to the covariance, as a fraction of its mean diagonal; ten times as much until it can be factored
WIDE_RIDGE = 1e-3


@torch.no_grad()
def error_curves(
    model: nn.Module,
    groups: ChannelGroups,
    names: Sequence[str],
    scores: Mapping[str, NDArray[np.float64]],
    grams: GramStore,
) -> dict[str, NDArray[np.float64]]:
    """The relative error (size + 1,) of a group's readers after its 0, 1, 2 ... lowest filters are gone.

    The error of a reader is the share of its output's variance that cannot be had back from the inputs that stay,
    in [0, 1]; outputs are weighed by the scale of the batch norm behind them, if there is one. A group's error is the
    mean over its readers, and no curve is given for a group none of whose readers has a Gram matrix.

    Args:
        model: The network.
        groups: Its channel groups.
        names: The groups wanted.
        scores: The ranking of their filters; lowest go first, of equal ones the first.
        grams: The network's Gram matrices.
    """
    found = {}
    for name in names:
        group = groups[name]
        order = torch.from_numpy(np.argsort(scores[name], kind="stable"))
        curves = []
        for layer, slot in weight_slots(groups, group, "in"):
            if layer.name not in grams:
                continue
            gram = grams[layer.name]
            positions = torch.from_numpy(slot.index)
            for block, weight, columns in readings(gram, positions, norm_scale(model, gram)):
                factor = _factor(gram, block, columns[order.to(columns.device)])
                curves.append(_curve(factor, weight, columns.shape))
                if len(factor.order) > WIDE:
                    gram.factors[block] = replace(factor, lower=grams.room.keep(factor.lower))
                    grams.room.rest()
        if curves:
            found[name] = np.mean(curves, axis=0)
    return found


def _curve(factor: Factor, weight: Tensor, shape: Sequence[int]) -> NDArray[np.float64]:
    """The error (units + 1,) of one reader whose units have so many columns, `shape` (units, columns a unit)."""
    lower, ordered = factor.lower, weight[factor.order]
    parts = torch.empty(len(lower), dtype=torch.float64, device=lower.device)
    for start in range(0, len(lower), STRIP):  # its upper half is zero
        strip = lower[start:, start : start + STRIP]
        parts[start : start + STRIP] = (strip.T @ ordered[start:]).square().sum(1, dtype=torch.float64)
    whole = float(parts.sum())
    lost = parts[len(parts) - shape[0] * shape[1] :].reshape(*shape).sum(1).flip(0).cumsum(0)
    curve = np.zeros(shape[0] + 1)
    if whole > 0.0:
        curve[1:] = np.clip(lost.cpu().numpy() / whole, 0.0, 1.0)
    return curve


def _factor(gram: LayerGram, block: int, columns: Tensor) -> Factor:
    """A conv group's covariance, factored so that columns (units, columns a unit), in the order of removal, come last.

    The ridge is as small as it can be; for wide readers it is that of least squares, which goes on with this factor.
    """
    last = columns.flip(0).reshape(-1)
    stays = torch.ones(gram.gram.shape[1], dtype=torch.bool, device=gram.gram.device)
    stays[last] = False
    order = torch.cat([stays.nonzero().flatten(), last])
    covariance = gram.moments(block, order, order)
    size = float(covariance.diagonal().mean())
    if size <= 0.0:  # dead inputs
        return Factor(order, torch.zeros_like(covariance), 0.0)
    lower, ridge = ridge_factor(covariance, (WIDE_RIDGE if len(order) > WIDE else RIDGE) * size)
    return Factor(order, lower, ridge)
