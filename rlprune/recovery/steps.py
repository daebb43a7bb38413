"""Recovery by name: `"lsq+bn"` is two steps, done in that order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import nn

from rlprune.channels import PruningPlan
from rlprune.errors import UserError
from rlprune.measuring.norms import recalibrate_bn
from rlprune.measuring.store import Bench, bn_calls, calibration_calls
from rlprune.network import Network
from rlprune.recovery.batchnorm import shift_bn
from rlprune.recovery.least_squares import least_squares
from rlprune.recovery.refitting import refit
from rlprune.registry import Registry
from rlprune.training.loop import OnStep, train
from rlprune.training.settings import TrainSettings

REFIT_IMAGES = 1024


@dataclass(frozen=True, eq=False)
class Repair:
    """What a recovery step works on.

    Attributes:
        before: The network before the removal.
        after: The network after it; a step changes its model in place.
        plan: What was removed, numbered in `before.groups`.
        problem: Data and task.
        seed: Of anything random.
        settings: How to train.
        on_step: Told of the progress of training.
    """

    before: Network
    after: Network
    plan: PruningPlan
    problem: Bench
    seed: int
    settings: TrainSettings
    on_step: OnStep | None = None


RECOVERY: Registry[Callable[[Repair], None]] = Registry("recovery step")
"""Each changes `after.model` of a repair in place."""


@RECOVERY.register("none")
def _none(repair: Repair) -> None:
    """Leave the network as it is."""


@RECOVERY.register("lsq")
def _lsq(repair: Repair) -> None:
    """Least squares from the Gram matrices of the network before."""
    if repair.plan:
        before, problem = repair.before, repair.problem
        grams = problem.measured.grams(before, problem)
        least_squares(repair.after.model, before.model, before.groups, repair.plan, grams)


@RECOVERY.register("bn")
def _bn(repair: Repair) -> None:
    """Batch-norm statistics re-estimated on calibration images."""
    recalibrate_bn(repair.after.model, bn_calls(repair.problem))


@RECOVERY.register("bn-delta")
def _bn_delta(repair: Repair) -> None:
    """Batch-norm statistics moved by what the removal changed, measured on calibration images."""
    before, problem = repair.before, repair.problem
    measured = problem.measured.norms(before, problem)
    shift_bn(repair.after.model, before.model, bn_calls(problem), measured, before.groups, repair.plan)


@RECOVERY.register("refit")
def _refit(repair: Repair) -> None:
    """Least squares on the pruned network's own activations; goes between `lsq` and a batch-norm step."""
    if repair.plan:
        problem, before = repair.problem, repair.before
        calls = list(calibration_calls(problem, REFIT_IMAGES))
        refit(repair.after.model, before.model, before.groups, repair.plan, calls, seed=problem.seed)


@RECOVERY.register("finetune")
def _finetune(repair: Repair) -> None:
    """Training; the teacher, where the settings want one, is the unpruned network, and patience watches control."""
    problem = repair.problem

    def control(model: nn.Module) -> float:
        return problem.evaluator.score(model, "control").value

    train(
        repair.after.model,
        problem.task,
        problem.data.train,
        repair.settings,
        seed=repair.seed,
        teacher=problem.model if repair.settings.distillation else None,
        monitor=control if repair.settings.patience else None,
        on_step=repair.on_step,
        device=problem.device,
        ledger=problem.ledger,
    )


def list_recoveries() -> list[str]:
    """Names of the steps that `make_recovery` joins."""
    return RECOVERY.names()


class Recovery:
    """Steps done one after the other.

    Args:
        names: Names of the steps.
        settings: For the steps that train.
        on_step: Told of the progress of training.
    """

    def __init__(self, names: Sequence[str], settings: TrainSettings, on_step: OnStep | None = None) -> None:
        self.names = tuple(names)
        self.settings = settings
        self.on_step = on_step
        self._steps = [RECOVERY.get(name) for name in names]

    @property
    def name(self) -> str:
        """As `make_recovery` reads it."""
        return "+".join(self.names)

    @property
    def key(self) -> str:
        """What it does now, as text: equal keys mean equal repairs."""
        return f"{self.name} {self.settings}"

    def __repr__(self) -> str:
        return f"Recovery({self.name!r})"

    def apply(self, before: Network, after: Network, plan: PruningPlan, problem: Bench, seed: int) -> None:
        """Repair `after.model` in place; `before` and the problem stay as they are.

        Args:
            before: The network before the removal.
            after: The network after it.
            plan: What was removed, numbered in `before.groups`.
            problem: Data, task and device.
            seed: Of anything random.
        """
        repair = Repair(before, after, plan, problem, seed, self.settings, self.on_step)
        for step in self._steps:
            step(repair)


def make_recovery(spec: str, settings: TrainSettings | None = None, on_step: OnStep | None = None) -> Recovery:
    """A recovery from step names joined by `+`.

    >>> make_recovery("lsq+bn").names
    ('lsq', 'bn')

    Raises:
        UserError: an unknown step, or one named twice.
    """
    names = [name.strip() for name in spec.split("+")]
    if len(set(names)) != len(names):
        raise UserError(f"recovery {spec!r} names a step twice; name each once")
    return Recovery(names, settings or TrainSettings(), on_step)
