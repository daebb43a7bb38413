"""One network, one task, its data: everything that pruning needs to know about them, in one object."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.parameter import is_lazy

from rlprune.channels import ChannelGroups, trace_channels
from rlprune.channels.copying import duplicate, unwrapped
from rlprune.cost import CostModel, count_parameters
from rlprune.criteria import CriterionContext, get_criterion
from rlprune.data import DataSplits
from rlprune.data.calling import Order
from rlprune.data.live import CALIBRATION, LiveData, LiveSplit, ToBatch, reader
from rlprune.devices import checked_device
from rlprune.errors import Notice, UserError, check_seed
from rlprune.heap import give_back, keep_freed
from rlprune.measuring.store import Measured
from rlprune.network import Network
from rlprune.scoring.evaluation import (
    Evaluator,
    Ledger,
    OwnEvaluator,
    batch_within,
    check_fits,
    check_loss,
    check_runs,
    evaluating,
)
from rlprune.tasks import Batch, Score, Task, as_task, overlooked
from rlprune.tasks.base import own_class
from rlprune.typed import checked

SHOWN = 3  # reasons in a line
CALIBRATION_PIXELS = 2**20  # in a batch

Evaluate = Callable[[nn.Module], float]
Fit = Callable[[nn.Module, int], None]


class PruningProblem:
    """A base network with its data, its groups, their cost, and the means to score what pruning leaves of it.

    It never changes: the network is a copy of yours, `base()` hands out copies of that, and `fresh()` a problem with
    books of its own. Roles must not share an example; for your own loaders that is your word.

    Args:
        model: The trained network, on any device. It is copied, never touched.
        data: A data set that is cut into roles already; else give loaders.
        control: Where the tolerance is kept: any re-iterable of batches (see `rlprune.data.live.LiveSplit`).
        train: For training; None trains nothing.
        calibration: What recoveries look at that measure activations; None takes it out of `train`.
        test: Looked at once, at the end.
        task: A name of `rlprune.tasks`, or a `Task`; None takes the one that the data declares.
        evaluate: Your own score of a network in place of task and control: higher is better, any range.
        fit: Your own training in place of the loop: changes the network it is given, for so many epochs.
        example_inputs: What the network is called with, a tuple or a dict of keywords, where no loader tells.
        batch: Turns what a loader yields into `(inputs, targets)`; inputs a tensor, a tuple, or a dict of keywords.
        keep: Patterns of layer or group names that must not be pruned.
        round_to: Widths stay multiples of this.
        min_channels: Smallest width a group may reach.
        seed: Of everything random.
        device: Where to compute; None stays where the model is.
        source: Where network and data came from, in plain values, for the record.

    Raises:
        UserError: For anything that cannot be; says which argument mends it.
    """

    def __init__(
        self,
        model: nn.Module,
        data: DataSplits | None = None,
        *,
        control: Any = None,
        train: Any = None,
        calibration: Any = None,
        test: Any = None,
        task: str | Task | None = None,
        evaluate: Evaluate | None = None,
        fit: Fit | None = None,
        example_inputs: tuple[Any, ...] | Mapping[str, Any] | None = None,
        batch: ToBatch | None = None,
        keep: Sequence[str] = (),
        round_to: int = 1,
        min_channels: int = 2,
        seed: int = 0,
        device: str | torch.device | None = None,
        source: Mapping[str, Any] | None = None,
    ) -> None:
        _check_model(model)
        keep_freed()
        _check_functions(evaluate=evaluate, fit=fit, batch=batch)
        seed = check_seed(seed)
        keep = checked(list[str] | tuple[str, ...], [keep] if isinstance(keep, str) else keep, "keep")
        checked(int, round_to, "round_to"), checked(int, min_channels, "min_channels")
        model = unwrapped(model)
        check_finite(model)
        order = Order(model)
        first = next(model.parameters(), torch.empty(0))
        self.device = checked_device(str(device or first.device))
        self.seed, self.source, self.fit = seed, dict(source) if source is not None else None, fit
        self.data: Any  # `DataSplits` or `LiveData`: both have the roles that are asked for
        if data is None:
            loaders = {"control": control, "train": train, "calibration": calibration, "test": test}
            self.data = _live(order, loaders, task, evaluate, batch, seed)
        else:
            self.data = data
        self.task = as_task(task or self.data.task)
        self.model = order.followed_by(duplicate(model).eval().to(self.device))
        self.ledger, self.measured = Ledger(), Measured()
        self._evaluate, self._example = evaluate, _placed(order, example_inputs, self.device)
        self.evaluator = self._evaluator()
        if isinstance(self.data, DataSplits):
            check_fits(self.model, self.data, self.task, self.device)
        elif evaluate is None:
            for split in filter(None, (self.data.control, self.data.train, self.data.calibration)):
                check_runs(self.model, split, self.task, self.device)
        self.groups = self._trace(keep, min_channels, round_to)
        if not self.groups.prunable:
            reasons = "; ".join(f"{group.name}: {group.locked}" for group in list(self.groups)[:SHOWN])
            raise UserError(
                f"no channel group of this network can be pruned ({reasons or 'it has none'}); `rlprune inspect` and "
                "print(rlprune.trace_channels(model, example)) show every reason"
            )
        self.cost = CostModel(self.groups)
        if evaluate is None:
            self._introduce()

    def _introduce(self) -> None:
        """Say which outputs the task overlooks, and let it know how the unpruned network does."""
        with evaluating(self.model), torch.no_grad():
            warning = overlooked(self.task, self.model(*self.example_inputs))
        if warning:
            warnings.warn(warning, Notice, stacklevel=3)

        ours = isinstance(self.data, DataSplits) and not self.task.model_losses
        if ours or (own_class(self.task) is not None and self.data.control is not None):
            check_loss(self.model, self.data.control, self.task)

        def score(task: Task) -> Score:
            return Evaluator(task, self.data, device=str(self.device)).score(self.model, "control")

        self.task = self.task.prepared(score)
        self.evaluator = self._evaluator()

    def _evaluator(self) -> Evaluator:
        if self._evaluate is not None:
            return OwnEvaluator(self._evaluate, self.task, self.data, device=str(self.device), ledger=self.ledger)
        return Evaluator(self.task, self.data, device=str(self.device), ledger=self.ledger)

    def fresh(self) -> PruningProblem:
        """The same problem with empty books and nothing measured yet: what a run counts is its own."""
        other = copy.copy(self)
        other.ledger, other.measured = Ledger(), Measured(self.measured.memory)
        other.evaluator = other._evaluator()
        other.__dict__["baseline"] = self.baseline  # the unpruned network's score is nobody's cost
        return other

    def __repr__(self) -> str:
        prunable, total = len(self.groups.prunable), len(list(self.groups))
        return f"PruningProblem({self.task.name}, {prunable} of {total} groups prunable, {self.cost.macs():,} MACs)"

    def __deepcopy__(self, memo: dict[int, Any]) -> PruningProblem:
        """Itself: nothing ever changes it, and `gymnasium.make` copies the arguments it is given."""
        return self

    def _trace(self, keep: Sequence[str], min_channels: int, round_to: int) -> ChannelGroups:
        options: dict[str, Any] = {"keep": keep, "min_channels": min_channels, "round_to": round_to}
        groups = trace_channels(self.model, *self.example_inputs, **options)
        give_back()  # what reading the data and tracing left
        return groups

    @cached_property
    def example_inputs(self) -> tuple[Any, ...]:
        """One example, as the network is called with it."""
        return self._example if self._example is not None else self._examples(1)

    @property
    def export_inputs(self) -> tuple[Any, ...]:
        """Two examples: exporters take a batch of one for a constant."""
        return self._example if self._example is not None else self._examples(2)

    def _examples(self, n: int) -> tuple[Any, ...]:
        splits = (self.data.calibration, self.data.control, self.data.train)
        split = next((split for split in splits if split is not None), None)
        if split is None:
            raise UserError("nothing tells what the network is called with; give example_inputs=(tensor, ...)")
        return self.task.inputs(next(iter(split.first(n).batches(n, device=str(self.device)))))

    @cached_property
    def baseline(self) -> Score:
        """The unpruned network's score on the control split."""
        return self.evaluator.score(self.model, "control")

    @property
    def trains(self) -> bool:
        """Whether there is anything to train with."""
        return self.fit is not None or self.data.train is not None

    def base(self) -> Network:
        """A fresh copy of the unpruned network."""
        return Network(duplicate(self.model), self.groups)

    def forget(self, network: Network | None = None) -> None:
        """Free what was measured on a network (None: on any); it is measured anew where it is asked for again."""
        self.measured.forget(network)

    def calibration_batches(self, batch_size: int | None = None) -> list[Batch]:
        """The calibration split, in a fixed order; by 256, or fewer of large images, which must fit with gradients."""
        size = batch_size or batch_within(CALIBRATION_PIXELS, 256, self.data.input_shape)
        return list(self.data.split("calibration").batches(size, device=str(self.device)))

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
        return self.cost.macs(network.plan.counts)

    def parameters(self, network: Network) -> int:
        """Number of parameters of `network`."""
        return count_parameters(network.model)


def _live(
    order: Order,
    loaders: Mapping[str, Any],
    task: str | Task | None,
    evaluate: Evaluate | None,
    batch: ToBatch | None,
    seed: int,
) -> LiveData:
    """A user's loaders as roles."""
    if loaders["control"] is None and evaluate is None:
        raise UserError("nothing says how well a network does; give control=loader, or evaluate=function")
    convert = reader(order, batch)
    found: dict[str, Any] = {
        role: None if loader is None else LiveSplit(loader, role, convert, seed) for role, loader in loaders.items()
    }
    if found["calibration"] is None and found["train"] is not None:
        first: LiveSplit = found["train"].first(CALIBRATION)
        first.role = "calibration"
        found["calibration"] = first
    name = task if isinstance(task, str) else getattr(task, "name", "classification")
    return LiveData(**found, task=name)


def _placed(order: Order, inputs: Any, device: torch.device) -> tuple[Any, ...] | None:
    """The user's example inputs as positional arguments on the device."""
    if inputs is None:
        return None
    placed = order.arranged(inputs)
    parts = placed if isinstance(placed, tuple) else (placed,)
    return tuple(part.to(device) if isinstance(part, torch.Tensor) else part for part in parts)


def _check_model(model: object) -> None:
    if not isinstance(model, nn.Module):
        raise UserError(f"model is a {type(model).__name__}; it must be a torch.nn.Module")
    if any(part.is_meta for part in (*model.parameters(), *model.buffers())):
        raise UserError("the model is on the device meta, without values; load its weights first")


def _check_functions(**functions: Any) -> None:
    for name, function in functions.items():
        if function is not None and not callable(function):
            raise UserError(f"{name} is {function!r}; it must be a function")


def check_finite(model: nn.Module) -> None:
    """Raise UserError if a parameter or buffer holds NaN or infinity, or nothing yet."""
    tensors: Sequence[tuple[str, torch.Tensor]] = [*model.named_parameters(), *model.named_buffers()]
    for name, tensor in tensors:
        if is_lazy(tensor):
            raise UserError(f"weight {name!r} of a lazy layer has no shape yet; call the model on an example first")
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise UserError(f"weight {name!r} holds NaN or infinity; every weight must be finite: give other weights")
