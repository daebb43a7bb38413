"""Reconstruction: what a filter's removal costs its consumers after they have been refitted by least squares.

Greedy backward elimination on the Gram matrices that recovery uses. With P the inverse of the kept inputs' covariance
and W the consumer's refitted weight, removing the inputs b raises the squared error of its output by
``tr(W_b^T (P_bb)^-1 W_b)``; afterwards ``W -= P_:b (P_bb)^-1 W_b`` and ``P -= P_:b (P_bb)^-1 P_b:``. All of it is exact
(the optimal brain surgeon of Hassibi and Stork 1993, for blocks of inputs), so a layer is ranked for one factorisation
and a downdate a filter, instead of a solve for every filter at every step. The criterion is our own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from rlprune.channels import ChannelGroup
from rlprune.criteria.base import CRITERIA, CriterionContext, Scores
from rlprune.criteria.combining import weight_slots
from rlprune.criteria.magnitude import L1
from rlprune.errors import UserError
from rlprune.measuring.grams import GramStore, LayerGram
from rlprune.measuring.solving import ridge_factor

BLOCK = 16  # removals between two updates of the whole inverse


@CRITERIA.register("reconstruction")
@dataclass(frozen=True)
class Reconstruction:
    """Share of the consumers' output variance that is lost, refitted, when a filter and all before it are gone.

    The scores of a group rise in the order of the greedy elimination and lie in [0, 1]. A group whose consumers are
    not modules (no Gram matrix) is ranked by L1.

    Attributes:
        ridge: Added to the covariance, as a fraction of its mean diagonal, > 0.
        weigh: Weigh a consumer's outputs by the scale of the batch norm behind it, if there is one: an output that the
            norm makes small matters less.
    """

    ridge: float = 1e-3
    weigh: bool = True

    name = "reconstruction"
    needs = frozenset({"data", "grams"})

    def __post_init__(self) -> None:
        if not 0 < self.ridge < float("inf"):
            raise UserError(f"ridge is {self.ridge}; it must be a finite number > 0")

    def scores(self, context: CriterionContext) -> dict[str, Scores]:
        """Cumulative relative error by group."""
        grams = context.gram_store(self.name)
        return {group.name: self._group(context, group, grams) for group in context.groups.prunable}

    @torch.no_grad()
    def _group(self, context: CriterionContext, group: ChannelGroup, grams: GramStore) -> Scores:
        views = []
        for layer, slot in weight_slots(context.groups, group, "in"):
            if layer.name in grams:
                gram = grams[layer.name]
                scale = norm_scale(context.model, gram) if self.weigh else None
                views += _views(gram, torch.from_numpy(slot.index), scale, self.ridge)
        if not views:
            return L1()._group(context, group)
        return eliminate(views, group.size, group.max_removable)


class View:
    """One consumer (or one conv group of it) while units are taken from its inputs one after the other.

    Args:
        covariance: (columns, columns), of all its inputs, in the precision to compute in; overwritten.
        weight: (columns, outputs), fitted to all of them.
        columns: (units, columns a unit), where each unit of the group reads.
        variance: What errors are divided by.
        ridge: Added to the covariance's diagonal.
    """

    def __init__(self, covariance: Tensor, weight: Tensor, columns: Tensor, variance: float, ridge: float) -> None:
        factor, ridge = ridge_factor(covariance, ridge)
        self.inverse = torch.cholesky_inverse(factor)
        self.weight = weight.clone()
        self.columns = columns
        self.variance = variance
        self.ridge = ridge
        self._alive = len(covariance)
        self._blocks = self.inverse[columns[:, :, None], columns[:, None, :]]  # (units, k, k), always up to date
        self._halves: list[Tensor] = []  # (k, columns) each: the inverse is yet to lose the squares of these

    def costs(self, units: Tensor) -> Tensor:
        """What the removal of each of these units adds to the error, as a share of the variance, float64 (units,)."""
        factors, _ = torch.linalg.cholesky_ex(self._blocks[units])
        weights = self.weight[self.columns[units]]
        squares = weights @ weights.mT  # (units, k, k)
        # The ridge's own share is taken off again: what is never active costs nothing.
        own = self.ridge * squares.diagonal(dim1=1, dim2=2).sum(1, dtype=torch.float64)
        errors = torch.cholesky_inverse(factors).mul_(squares).sum((1, 2), dtype=torch.float64) - own
        return errors.clamp_(min=0) / self.variance

    def remove(self, unit: int) -> None:
        """Take a unit out and refit."""
        columns = self.columns[unit]
        factor, _ = torch.linalg.cholesky_ex(self._blocks[unit])
        rows = self.inverse[columns]
        for half in self._halves:
            rows.addmm_(half[:, columns].T, half, alpha=-1)
        half = torch.linalg.solve_triangular(factor, rows, upper=False)
        step = torch.linalg.solve_triangular(factor, self.weight[columns], upper=False)
        self.weight.addmm_(half.T, step, alpha=-1)
        parts = half[:, self.columns].transpose(0, 1)  # (units, k of the removed, k)
        self._blocks.baddbmm_(parts.mT, parts, alpha=-1)
        self._halves.append(half)
        self._alive -= len(columns)
        if len(self._halves) == BLOCK:
            self._downdate()

    def _downdate(self) -> None:
        """Bring the inverse up to date, many removals in one product."""
        if self._halves:
            halves = torch.cat(self._halves)
            self.inverse.addmm_(halves.T, halves, alpha=-1)
            self._halves.clear()

    def compact(self, units: Tensor) -> None:
        """Drop the rows of what is gone, once they are a quarter: they only cost time."""
        if self._alive > 0.75 * len(self.inverse):
            return
        self._downdate()
        gone = torch.zeros(len(self.inverse), dtype=torch.bool)
        gone[self.columns.flatten()] = True
        gone[self.columns[units].flatten()] = False
        kept = (~gone).nonzero().flatten()
        self.inverse = self.inverse.index_select(0, kept).index_select(1, kept)
        self.weight = self.weight[kept]
        place = torch.zeros(len(gone), dtype=torch.long)
        place[kept] = torch.arange(len(kept))
        self.columns = place[self.columns]  # those of units that are gone point nowhere and are never asked for


def eliminate(views: list[View], size: int, most: int) -> Scores:
    """Cumulative cost of every unit in greedy order; after `most` removals the rest are ranked by their next cost."""
    scores = np.zeros(size)
    left = torch.arange(size)
    total = 0.0
    for step in range(min(most, size - 1) + 1):
        costs = torch.stack([view.costs(left) for view in views]).mean(0)
        if step == min(most, size - 1):
            rest = total + costs.numpy()
            scores[left.numpy()] = np.maximum(rest, np.nextafter(total, np.inf))
            break
        place = int(costs.argmin())
        unit = int(left[place])
        # Strictly rising, so that ranking by score is the order of elimination.
        total = max(total + float(costs[place]), float(np.nextafter(total, np.inf)))
        scores[unit] = total
        left = torch.cat([left[:place], left[place + 1 :]])
        for view in views:
            view.remove(unit)
            view.compact(left)
    return scores


def _views(gram: LayerGram, positions: Tensor, scale: Tensor | None, ridge: float) -> list[View]:
    """The layer as seen from a group whose unit j reads at `positions[j]` of its input channels."""
    found = []
    for block, weight, columns in readings(gram, positions, scale):
        covariance, weight = gram.covariance(block).cpu(), weight.cpu()
        variance = float((weight * (covariance @ weight)).sum(dtype=torch.float64))
        size = float(covariance.diagonal().mean())
        spread = variance if variance > 0 else 1.0
        found.append(View(covariance, weight, columns.cpu(), spread, ridge * size if size > 0 else 1.0))
    return found


def readings(gram: LayerGram, positions: Tensor, scale: Tensor | None) -> Iterator[tuple[int, Tensor, Tensor]]:
    """What a layer, or each conv group of it, does with a group whose unit j reads at `positions[j]` of its inputs.

    Yields:
        Which conv group, its weight (columns, outputs) with the outputs scaled by `scale`, and the columns of every
        unit (units, columns a unit).
    """
    unfolding, (blocks, outputs, columns) = gram.unfolding, gram.matrix.shape
    inputs = columns // unfolding.taps
    positions = positions.to(gram.gram.device)
    for block in range(blocks):
        if unfolding.transposed:
            here = positions // inputs == block
            if not bool(here.any()):
                continue
            mine = positions[here].reshape(len(positions), -1) - block * inputs
        else:
            mine = positions
        weight = gram.matrix[block].T
        if scale is not None:
            own = scale[block * outputs : (block + 1) * outputs] if len(scale) != outputs else scale
            weight = weight * own.to(weight)
        yield block, weight, torch.stack([unfolding.columns(row) for row in mine])


def norm_scale(model: nn.Module, gram: LayerGram) -> Tensor | None:
    """|γ| / σ of the batch norm behind a layer, (outputs,)."""
    norm = model.get_submodule(gram.norm) if gram.norm is not None else None
    if not isinstance(norm, _BatchNorm) or norm.running_var is None:
        return None
    deviation = (norm.running_var.double() + norm.eps).sqrt()
    return ((norm.weight.double().abs() if norm.affine else 1.0) / deviation).detach().cpu()
