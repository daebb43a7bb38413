"""One network, one task, one data set: everything that pruning needs to know about them, in one object."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from rlprune.artifact import is_pruned, load_pruned
from rlprune.channels import ChannelGroups, PruningPlan, trace_channels
from rlprune.cost import CostModel
from rlprune.criteria import CriterionContext, get_criterion
from rlprune.data import DataSplits, load_data
from rlprune.errors import UserError
from rlprune.files import read_tensors
from rlprune.measuring.store import Measured
from rlprune.models import default_weights, load_weights, resolve_model
from rlprune.network import Network
from rlprune.scoring.evaluation import Evaluator, Ledger, batch_within, check_fits
from rlprune.tasks import Batch, Score, Task, get_task

CALIBRATION_PIXELS = 2**20  # in a batch


@dataclass(frozen=True)
class ProblemSpec:
    """A problem in plain values, so that it can be written down, sent to a worker process and built again.

    Attributes:
        model: Zoo name, `torchvision:NAME`, `package.module:function` or `file.py:function`.
        data: `digits`, an `.npz` file, a folder, or `torchvision:NAME`.
        weights: File with a state dict; None takes the weights that the zoo trains itself (digits/lenet5 only).
        task: What the network does, where the data's own task needs an option, such as `detection:metric=map50`.
        root: Folder that `data` is relative to, or where torchvision's sets lie.
        seed: Of everything random.
        device: Where to compute, such as `cpu` or `cuda`.
        control_from: `train` or `test`: where the control split is cut from. None chooses: as the weights were trained,
            or `test` for a weights file that does not say what it was trained on, since it may have seen every
            training image.
        control_size: Examples the tolerance is kept on; None chooses.
        calibration_size: Examples that recovery looks at; None chooses.
        keep: Patterns of layer or group names that must not be pruned.
        min_channels: Smallest width a group may reach.
        round_to: Widths stay multiples of this.
    """

    model: str = "lenet5"
    data: str = "digits"
    weights: str | None = None
    task: str | None = None
    root: str | None = None
    seed: int = 0
    device: str = "cpu"
    control_from: str | None = None
    control_size: int | None = None
    calibration_size: int | None = None
    keep: tuple[str, ...] = ()
    min_channels: int = 2
    round_to: int = 1

    def build(self, *, untrained: bool = False) -> PruningProblem:
        """Load the data and the network; raises UserError for anything that cannot be had.

        Args:
            untrained: Take fresh weights where none are given and none come with the project: enough to look at.
        """
        splits = self.splits()
        model = load_network(self, splits, untrained=untrained)
        return PruningProblem(model, splits, spec=self)

    def splits(self) -> DataSplits:
        """The data, cut so that the weights have not seen the control images.

        Weights that say what they were trained on (`rlprune train` wrote them) keep the control split of that training
        as far as no option asks for another, if that cut is this one; any others get theirs from held-out images.
        """
        if self.weights is None:
            return self._load(self.control_from)
        meta = weights_meta(self.weights)
        trained = meta.get("train_fingerprint")
        if self.control_from == "test" or (self.control_from is None and trained is None):
            return self._load("test")
        as_trained = replace(
            self,
            control_size=meta.get("control_size") if self.control_size is None else self.control_size,
            calibration_size=meta.get("calibration_size") if self.calibration_size is None else self.calibration_size,
        )
        splits = as_trained._load(self.control_from or meta.get("control_from"))
        if trained is None or splits.train.fingerprint() == trained:
            return splits
        if self.control_from is None:
            return self._load("test")
        raise UserError(
            f"{self.weights} was trained on another cut of {self.data!r}, so control images from train may have been "
            "seen; take the --seed, --control-size and --calibration-size it was trained with, or --control-from test"
        )

    def _load(self, control_from: str | None) -> DataSplits:
        return load_data(
            self.data,
            root=self.root,
            seed=self.seed,
            control_from=control_from,
            control_size=self.control_size,
            calibration_size=self.calibration_size,
        )

    def to_json(self) -> dict[str, Any]:
        """Plain values only."""
        return {**asdict(self), "keep": list(self.keep)}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> ProblemSpec:
        """What `to_json` wrote."""
        return cls(**{**content, "keep": tuple(content["keep"])})


def weights_meta(path: str) -> dict[str, Any]:
    """What a weights file says about itself; nothing where it cannot be read or says nothing."""
    if path.startswith("torchvision:"):
        return {}
    try:
        meta = read_tensors(Path(path)).get("meta")
    except UserError:  # loading the weights will say it, with the network at hand
        return {}
    return dict(meta) if isinstance(meta, Mapping) else {}


def load_network(spec: ProblemSpec, splits: DataSplits, *, untrained: bool = False) -> nn.Module:
    """The network of `spec` with its weights, which may be those of a network that was pruned before."""
    device = checked_device(spec.device)
    model = resolve_model(spec.model, num_classes=len(splits.classes), in_channels=splits.input_shape[0])
    if spec.weights is None:
        with suppress(UserError) if untrained else nullcontext():
            default_weights(model, spec.model, splits)
    elif is_pruned(spec.weights):
        load_pruned(spec.weights, model)
    else:
        load_weights(model, spec.weights)
    return model.eval().to(device)


def checked_device(name: str) -> torch.device:
    """The device called `name`; raises UserError if this machine does not have it."""
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(
            f"device {name!r} cannot be used here ({str(error).splitlines()[0]}); try --device cpu"
        ) from None
    return device


class PruningProblem:
    """A base network with its data, its groups, their cost, and the means to score what pruning leaves of it.

    The base network is never changed; `base()` hands out copies.

    Args:
        model: The trained network. It is copied.
        data: Its data, split into roles.
        spec: Where the two came from, for the record.
        device: Where to compute.
        task: Defaults to the task of `spec`, and that to the one the data declares.
    """

    def __init__(
        self,
        model: nn.Module,
        data: DataSplits,
        *,
        spec: ProblemSpec | None = None,
        device: str | None = None,
        task: Task | None = None,
    ) -> None:
        self.spec = spec or ProblemSpec()
        self.device = checked_device(device or self.spec.device)
        self.data = data
        self.task = task or get_task(self.spec.task or data.task)
        self.model = copy.deepcopy(model).eval().to(self.device)
        self.seed = self.spec.seed
        self.ledger = Ledger()
        self.measured = Measured()
        self.evaluator = Evaluator(self.task, data, device=str(self.device), ledger=self.ledger)
        check_finite(self.model)
        check_fits(self.model, data, self.task, self.device)
        self.groups = self._trace()
        if not self.groups.prunable:
            raise UserError("no channel group of this network can be pruned; `rlprune inspect` shows every reason")
        self.cost = CostModel(self.groups)

    def _trace(self) -> ChannelGroups:
        spec = self.spec
        try:
            return trace_channels(
                self.model,
                *self.example_inputs,
                keep=spec.keep,
                min_channels=spec.min_channels,
                round_to=spec.round_to,
            )
        except UserError:
            raise
        except Exception as error:  # whatever a user's forward raises while it is traced
            reason = (str(error).strip().splitlines() or [""])[0]
            raise UserError(
                f"the network cannot be traced ({type(error).__name__}: {reason}); its forward must run on one example"
            ) from error

    @cached_property
    def example_inputs(self) -> tuple[Any, ...]:
        """One example, as the network is called with it."""
        batch = next(iter(self.data.calibration.batches(1, device=str(self.device))))
        return self.task.inputs(batch)

    @property
    def export_inputs(self) -> tuple[Any, ...]:
        """Two examples: exporters take a batch of one for a constant."""
        return self.task.inputs(next(iter(self.data.calibration.batches(2, device=str(self.device)))))

    @cached_property
    def baseline(self) -> Score:
        """The unpruned network's score on the control split."""
        return self.evaluator.score(self.model, "control")

    def base(self) -> Network:
        """A fresh copy of the unpruned network."""
        return Network(copy.deepcopy(self.model), self.groups)

    def calibration_batches(self, batch_size: int | None = None) -> list[Batch]:
        """The calibration split, in a fixed order; by 256, or fewer of large images, which must fit with gradients."""
        size = batch_size or batch_within(CALIBRATION_PIXELS, 256, self.data.input_shape)
        return list(self.data.calibration.batches(size, device=str(self.device)))

    def scores(self, criterion: str, network: Network, *, seed: int = 0) -> dict[str, np.ndarray]:
        """Importance of every filter of `network` by group; higher stays longer."""
        chosen = get_criterion(criterion)
        context = CriterionContext(
            model=network.model,
            groups=network.groups,
            seed=seed,
            task=self.task,
            batches=self.calibration_batches,
            reduction=1.0 - self.macs(network) / self.cost.macs(),
            grams=self.measured.grams(network, self) if "grams" in chosen.needs else None,
        )
        return chosen.scores(context)

    def macs(self, network: Network) -> int:
        """Multiply–accumulates of one forward pass of `network` on one example."""
        return self.cost.macs(removed_counts(network.plan))

    def parameters(self, network: Network) -> int:
        """Number of parameters of `network`."""
        return sum(p.numel() for p in network.model.parameters())


def removed_counts(plan: PruningPlan) -> dict[str, int]:
    """How many channels of every group a plan takes out."""
    return {name: len(indices) for name, indices in plan.removed.items()}


def check_finite(model: nn.Module) -> None:
    """Raise UserError if a parameter or buffer holds NaN or infinity."""
    tensors: Sequence[tuple[str, torch.Tensor]] = [*model.named_parameters(), *model.named_buffers()]
    for name, tensor in tensors:
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise UserError(f"weight {name!r} holds NaN or infinity; every weight must be finite: give other weights")
