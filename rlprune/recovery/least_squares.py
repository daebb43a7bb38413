"""Least squares: fit what reads a pruned layer to what it used to put out, from Gram matrices alone.

For kept inputs S and a layer with weight W, the fit that minimises ``E |W a - W' a_S|^2`` is
``W'^T = solve(G[S,S] + ridge, G[S,:] W^T)``; the refit after channel selection of He et al. 2017 (*Channel pruning
for accelerating very deep neural networks*, eq. 5), with the features replaced by their Gram matrix.

The fit is made on centred inputs, and the shift of the mean that remains goes where it costs nothing: into the layer's
bias, or into the running mean of the batch norm behind it. Only where there is neither is the fit not centred.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from rlprune.channels import ChannelGroups, PruningPlan
from rlprune.errors import UserError
from rlprune.measuring.grams import Factor, GramStore, LayerGram
from rlprune.measuring.solving import ridge_solve, solve_lower
from rlprune.measuring.unfolding import Unfoldable

REFINEMENTS = 1
Positions = npt.NDArray[np.int64]


@torch.no_grad()
def least_squares(
    pruned_model: nn.Module,
    original_model: nn.Module,
    groups: ChannelGroups,
    plan: PruningPlan,
    grams: GramStore,
    *,
    ridge: float = 1e-3,
) -> None:
    """Refit, in place, every layer of `pruned_model` that lost inputs.

    Args:
        pruned_model: `remove_channels(original_model, groups, plan)`.
        original_model: The network before the removal, on which `grams` were collected.
        groups: Its channel groups.
        plan: What was removed, numbered in `groups`.
        grams: Its Gram matrices. Layers without one are left alone.
        ridge: Pull towards the weights as they were, as a fraction of the inputs' mean variance. It decides what
            happens to inputs that the calibration images say nothing about.

    Raises:
        UserError: if `grams` are of another network.
    """
    originals, layers = dict(original_model.named_modules()), dict(pruned_model.named_modules())
    kept = groups.kept(plan)
    for tensor, dim in kept:
        name, _, leaf = tensor.rpartition(".")
        layer, original = layers.get(name), originals.get(name)
        if leaf != "weight" or name not in grams or not isinstance(layer, Unfoldable):
            continue
        assert isinstance(original, Unfoldable)
        gram = grams[name]
        if dim != int(not gram.unfolding.transposed):
            continue  # outputs that it lost
        if gram.matrix.numel() != original.weight.numel():
            raise UserError(f"the Gram matrix of {name!r} is of another network; collect Gram matrices again")
        kept_in, kept_out = kept[tensor, dim], kept.get((tensor, 1 - dim), np.arange(original.weight.shape[1 - dim]))
        norm = layers.get(gram.norm) if gram.norm is not None else None
        centred = layer.bias is not None or isinstance(norm, _BatchNorm)
        weight, shift = _refit(gram, kept_in, kept_out, ridge, centred)
        grams.room.rest()
        layer.weight.copy_(weight.reshape(layer.weight.shape))
        if layer.bias is not None:
            assert original.bias is not None
            layer.bias.add_(shift.to(layer.bias.dtype))
        elif isinstance(norm, _BatchNorm) and norm.running_mean is not None:
            norm.running_mean.sub_(shift.to(norm.running_mean.dtype))


def _refit(
    gram: LayerGram, kept_in: Positions, kept_out: Positions, ridge: float, centred: bool
) -> tuple[Tensor, Tensor]:
    """New weight (in the layer's own axis order, flattened) and the mean each kept output lost, (kept outputs,)."""
    unfolding, (blocks, outputs, columns) = gram.unfolding, gram.matrix.shape
    inputs = columns // unfolding.taps
    weights, shifts = [], []
    for block in range(blocks):
        if unfolding.transposed:
            ins, outs = kept_in[kept_in // inputs == block] - block * inputs, kept_out
        else:
            ins, outs = kept_in, kept_out[kept_out // outputs == block] - block * outputs
        if not len(ins) or not len(outs):
            continue  # the whole conv group went
        device = gram.gram.device
        s = unfolding.columns(torch.from_numpy(ins).to(device))
        r = torch.from_numpy(outs).to(device)
        old, mean = gram.matrix[block][r], gram.mean[block]
        new = _solution(gram, block, s, old, ridge, centred).T
        weights.append(new.reshape(len(outs), len(ins), -1).transpose(0, 1) if unfolding.transposed else new)
        shifts.append(old.double() @ mean - new.double() @ mean[s] if centred else mean.new_zeros(len(outs)))
    return torch.cat(weights), torch.cat(shifts)


def _solution(gram: LayerGram, block: int, stays: Tensor, weight: Tensor, ridge: float, centred: bool) -> Tensor:
    """The best weights (columns that stay, outputs) of one conv group: ``W_S + (C_SS + r)^-1 C_SR W_R``.

    Args:
        gram: Of the layer.
        block: Which conv group.
        stays: The columns S; R are the others.
        weight: (outputs, columns), as it was.
        ridge: r, as a fraction of the mean diagonal of C_SS.
        centred: Whether C is the covariance, or not centred.
    """
    mask = torch.ones(weight.shape[1], dtype=torch.bool, device=stays.device)
    mask[stays] = False
    gone = mask.nonzero().flatten()
    kept, lost = weight[:, stays].T, weight[:, gone].T
    factor = gram.factors.get(block)
    if centred and factor is not None and torch.equal(factor.order[len(stays) :].sort().values, gone):
        order = factor.order[: len(stays)]
        size = float((gram.gram[block].diagonal()[order] - gram.mean[block][order] ** 2).mean())
        if size > 0.0 and abs(ridge * size - factor.ridge) < factor.ridge:
            found = torch.empty_like(kept)
            place = torch.empty_like(mask, dtype=torch.long)
            place[stays] = torch.arange(len(stays), device=stays.device)
            found[place[order]] = _from_factor(factor, len(stays), weight, ridge * size)
            return kept + found
    covariance = gram.moments(block, stays, stays, centred=centred)
    product = gram.moments(block, stays, gone, centred=centred) @ lost
    return kept + ridge_solve(covariance, product, torch.zeros_like(product), ridge)


def _from_factor(factor: Factor, count: int, weight: Tensor, ridge: float) -> Tensor:
    """``(C_SS + r)^-1 C_SR W_R`` for the first `count` columns of a factor, in its order.

    The factor's ridge is not quite r, so the solution is brought to it by iterative refinement, whose steps shrink by
    the ratio of the two.
    """
    lower = factor.lower[:count, :count]
    lost = weight[:, factor.order[count:]].to(lower.dtype)
    found = solve_lower(lower, lost @ factor.lower[count:, :count])
    step = found
    for _ in range(REFINEMENTS):
        step = solve_lower(lower, (factor.ridge - ridge) * step, transposed=True)
        step = solve_lower(lower, step)
        found = found + step
    return found.T.to(weight.dtype)
