"""Least squares on what the pruned network really computes: slower than from Gram matrices, and better where much went.

`least_squares` assumes that a layer still reads what it used to read, less some channels. After a deep cut its inputs
have changed as well. Here both networks run on the same images, and every layer that reads a prunable group is fitted
from its inputs in the pruned network to its outputs in the network before: the asymmetric refit of He et al. 2017
(section 3.2), for all layers at once instead of one after the other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rlprune.channels import ChannelGroups, PruningPlan
from rlprune.errors import UserError
from rlprune.measuring.following import following_norms
from rlprune.measuring.grams import sampling
from rlprune.measuring.norms import recalibrate_bn
from rlprune.measuring.solving import ridge_solve
from rlprune.measuring.unfolding import Unfoldable, Unfolding, sampled_rows
from rlprune.seeding import torch_generator

Call = tuple[Any, ...]


@torch.no_grad()
def refit(
    pruned_model: nn.Module,
    original_model: nn.Module,
    groups: ChannelGroups,
    plan: PruningPlan,
    calls: Sequence[Call],
    *,
    ridge: float = 1e-2,
    positions_per_image: int = 8,
    sweeps: int = 1,
    seed: int = 0,
) -> None:
    """Fit the consumers of `pruned_model`, in place, to the outputs of `original_model` on the same images.

    Batch-norm statistics are re-estimated before every sweep, so follow it by a batch-norm step.

    Args:
        pruned_model: `remove_channels(original_model, groups, plan)`, best after `least_squares`.
        original_model: The network before the removal; left alone.
        groups: Its channel groups.
        plan: What was removed.
        calls: The models' positional arguments, a tuple a batch; about a thousand images.
        ridge: Pull towards the weights as they are, as a fraction of the inputs' mean variance.
        positions_per_image: Output positions sampled in every image.
        sweeps: How often to repeat it, each time on the inputs that the last one has changed.
        seed: Which positions.

    Raises:
        UserError: there are no calls.
    """
    if not calls:
        raise UserError("there are no calibration images to refit on; give at least one batch")
    modules = dict(pruned_model.named_modules())
    names = [n for n in dict.fromkeys(n for g in groups.prunable for n in g.consumers) if n in modules]
    layers: dict[str, Unfoldable] = {n: m for n in names if isinstance(m := modules[n], Unfoldable) and _whole(m)}
    kept = _kept_outputs(groups, plan, layers)
    norms = following_norms(original_model, set(layers), calls[0])
    originals = {name: m for name, m in original_model.named_modules() if name in layers and isinstance(m, Unfoldable)}
    for sweep in range(sweeps):
        recalibrate_bn(pruned_model, calls)
        sums = {name: _Sums() for name in layers}
        for batch, call in enumerate(calls):
            wanted, given = (
                _rows(model, found, call, positions_per_image, (seed, "refit", sweep, batch))
                for model, found in ((original_model, originals), (pruned_model, layers))
            )
            for name in layers:
                matrix = Unfolding.of(originals[name]).matrix(originals[name].weight)[0][kept[name]]
                sums[name].add(given[name], wanted[name] @ matrix.T)
        for name, layer in layers.items():
            _fit(layer, originals[name], kept[name], sums[name], ridge, name in norms)


def _fit(layer: Unfoldable, original: Unfoldable, kept: Tensor, sums: _Sums, ridge: float, normed: bool) -> None:
    """New weight, and a new bias where there is one; a norm behind the layer takes up the mean when it is measured."""
    unfolding = Unfolding.of(layer)
    old = unfolding.matrix(layer.weight)[0].double()
    gram, cross, mean, target = sums.gram / sums.rows, sums.cross / sums.rows, sums.inputs / sums.rows, sums.outputs
    target = target / sums.rows
    if layer.bias is not None or normed:
        gram = gram - mean[:, None] * mean
        cross = cross - mean[:, None] * target
    new = ridge_solve(gram, cross, old.T, ridge).T
    shaped = new.reshape(len(new), -1, unfolding.taps).transpose(0, 1) if unfolding.transposed else new
    layer.weight.copy_(shaped.reshape(layer.weight.shape))
    if layer.bias is not None and original.bias is not None:
        layer.bias.copy_(original.bias[kept] + target - new @ mean)


class _Sums:
    """Running sums over the sampled rows of one layer, in float64."""

    def __init__(self) -> None:
        self.rows = 0

    def add(self, inputs: Tensor, outputs: Tensor) -> None:
        found = (inputs.T @ inputs, inputs.T @ outputs, inputs.sum(0), outputs.sum(0))
        if self.rows == 0:
            self.gram, self.cross, self.inputs, self.outputs = (part.double() for part in found)
        else:
            for total, part in zip((self.gram, self.cross, self.inputs, self.outputs), found, strict=True):
                total += part
        self.rows += len(inputs)


def _rows(
    model: nn.Module, layers: Mapping[str, Unfoldable], call: Call, positions: int, key: tuple[int | str, ...]
) -> dict[str, Tensor]:
    """What every layer reads at some output positions, (rows, columns); equal keys give equal positions."""
    found: dict[str, list[Tensor]] = {name: [] for name in layers}

    def sample(name: str, inputs: Tensor) -> None:
        generator = torch_generator(*key, name, len(found[name]))  # type: ignore[arg-type]
        found[name].append(sampled_rows(layers[name], inputs, positions, generator)[0].float())

    with sampling(model, layers, sample):
        model(*call)
    return {name: torch.cat(parts) for name, parts in found.items()}


def _whole(layer: Unfoldable) -> bool:
    """Whether it has one conv group; grouped convs keep what they have."""
    return isinstance(layer, nn.Linear) or layer.groups == 1


def _kept_outputs(groups: ChannelGroups, plan: PruningPlan, layers: Mapping[str, Unfoldable]) -> dict[str, Tensor]:
    """Which of the original layer's outputs are left, by layer name."""
    kept, found = groups.kept(plan), {}
    for name, layer in layers.items():
        weight, dim = f"{name}.weight", int(Unfolding.of(layer).transposed)
        left = kept.get((weight, dim), np.arange(groups.shapes[weight][dim]))
        found[name] = torch.from_numpy(left).to(layer.weight.device)
    return found
