"""What the outputs of a network say to the loss of a group's lowest filters, for every number of them.

An error curve (`rlprune.criteria.errors`) tells how much a group's readers lose, and not what the network makes of it:
half of a first layer's output may be worth less than a tenth of a last one's. So each group is pruned by itself at a
few rates, its readers refitted by least squares, and the outputs compared with the unpruned network's: on a few
calibration images, without labels, batch norms by the statistics of these images in both. Between the rates a response
follows the error. Few images make a response noisy, and a group by itself is not a group among others that are pruned,
too; so their geometric mean is what schedules go by first, each curve correcting the other. (Ours.)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rlprune.channels import PruningPlan
from rlprune.channels.forward import tensors_in
from rlprune.criteria import lowest
from rlprune.measuring.norms import batch_statistics
from rlprune.measuring.store import calibration_calls
from rlprune.network import Network
from rlprune.problem import PruningProblem
from rlprune.recovery import make_recovery
from rlprune.scoring.evaluation import batch_within, evaluating

Curve = NDArray[np.float64]
Outputs = list[list[Tensor]]  # a list a batch

RATES = (0.25, 0.5, 0.75)
PIXELS, MOST, LEAST = 64 * 32**2, 64, 8  # of the images together, and images
FULLER = 4  # times as many for whole schedules, which are few


class OutputChange:
    """How far removals change what a network makes of a few calibration images: squared change over variance.

    Attributes:
        known: Whether outputs can be compared at all: not where there are no calibration images.
    """

    def __init__(self, problem: PruningProblem, network: Network, seed: int = 0, times: int = 1) -> None:
        """Look at the outputs of `network`, on that many times the usual images; `seed` is of the least squares."""
        self.problem, self.network, self.seed, self._repair = problem, network, seed, make_recovery("lsq")
        images = times * max(LEAST, batch_within(PIXELS, MOST, problem.data.input_shape))
        self._calls = [] if problem.data.calibration is None else list(calibration_calls(problem, images))
        self.known = bool(self._calls) and all(_examples(call) > 1 for call in self._calls)  # one has no statistics
        self._full = _outputs(problem, network.model, self._calls) if self.known else []

    def after(self, plan: PruningPlan) -> float:
        """The change once `plan` is removed and the readers refitted; infinite where outputs cannot be compared."""
        if not self.known:
            return float("inf")
        after = self.network.remove(plan, self.problem.groups)
        self._repair.apply(self.network, after, plan, self.problem, self.seed)
        return _change(self._full, _outputs(self.problem, after.model, self._calls))


def response_curves(
    outputs: OutputChange, names: Sequence[str], scores: Mapping[str, Curve], errors: Mapping[str, Curve]
) -> dict[str, Curve]:
    """The squared change of the outputs over their variance between images, after a group's 0, 1, 2 ... lowest filters.

    A curve (size + 1,) for every group. None is given for a group
    without an error curve, nor for any where outputs cannot be compared: where there are no calibration images, or what
    the network gives are not numbers alone, or more or fewer of them (boxes that a detector found).

    Args:
        outputs: Of the network that is pruned.
        names: The groups wanted.
        scores: The ranking of their filters; lowest go first.
        errors: Their error curves (size + 1,).
    """
    if not outputs.known:
        return {}
    found = {}
    for group in (outputs.network.groups[name] for name in names if name in errors):
        counts = sorted({group.allowed(round(rate * group.size)) for rate in RATES} - {0})
        changes = {
            count: outputs.after(PruningPlan({group.name: lowest(scores[group.name], count)})) for count in counts
        }
        if not np.isfinite(list(changes.values())).all():
            return {}
        if changes:
            found[group.name] = _along(errors[group.name], changes)
    return found


def _examples(call: tuple[Any, ...]) -> int:
    return min((len(tensor) for tensor in tensors_in(call) if tensor.dim()), default=0)


def _outputs(problem: PruningProblem, model: nn.Module, calls: Sequence[tuple[Any, ...]]) -> Outputs:
    found = []
    with evaluating(model), torch.inference_mode(), problem.evaluator.precision(), batch_statistics(model):
        for call in calls:
            problem.ledger.images_evaluated += _examples(call)
            found.append(tensors_in(model(*call)))
    return found


def _change(full: Outputs, changed: Outputs) -> float:
    """Squared change over the variance between images, a mean over outputs; infinite where they cannot be compared."""
    ratios = []
    if len({len(batch) for batch in (*full, *changed)}) > 1:
        return float("inf")
    for before, after in zip(zip(*full, strict=True), zip(*changed, strict=True), strict=True):
        pairs = list(zip(before, after, strict=True))
        if any(a.shape != b.shape or not a.dim() or not a.is_floating_point() for a, b in pairs):
            return float("inf")
        moved = sum(float((b - a).square().sum(dtype=torch.float64)) for a, b in pairs)
        spread = sum(float((a - a.mean(0)).square().sum(dtype=torch.float64)) for a, _ in pairs)
        if spread > 0.0:
            ratios.append(moved / spread)
    return float(np.mean(ratios)) if ratios else float("inf")


def _along(error: Curve, changes: Mapping[int, float]) -> Curve:
    """A curve through the changes at these counts, or the highest before, that runs between them as the error does."""
    counts = [0, *changes]
    values, places = np.maximum.accumulate([0.0, *changes.values()]), error[counts]
    if not (np.diff(places) > 0.0).all():
        return np.interp(np.arange(len(error)), counts, values)
    beyond = np.maximum(error / places[-1], 1.0)
    return np.asarray(np.interp(error, places, values) * beyond)
