"""Recovery by name: `"lsq+bn"` is two steps, done in that order."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from torch import nn

from rlprune.artifact import fingerprint
from rlprune.errors import UserError
from rlprune.recovery.batchnorm import recalibrate_bn
from rlprune.recovery.bn_delta import Statistics, measure_bn, shift_bn
from rlprune.recovery.grams import GramStore
from rlprune.recovery.least_squares import least_squares
from rlprune.recovery.refitting import refit
from rlprune.registry import Registry
from rlprune.training.loop import OnStep, train
from rlprune.training.settings import TrainSettings

if TYPE_CHECKING:
    from rlprune.channels import PruningPlan
    from rlprune.problem import PrunedNetwork, PruningProblem

BN_IMAGES = 256
BN_BATCH = 64
GRAM_BATCH = 64
REFIT_IMAGES = 1024
CACHED_BYTES = 2 * 2**30


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

    before: PrunedNetwork
    after: PrunedNetwork
    plan: PruningPlan
    problem: PruningProblem
    seed: int
    settings: TrainSettings
    on_step: OnStep | None = None


class Step(Protocol):
    """One thing that repairs a pruned network."""

    def __call__(self, repair: Repair) -> None:
        """Change `repair.after.model` in place."""
        ...


RECOVERY: Registry[Step] = Registry("recovery step")


@RECOVERY.register("none")
def _none(repair: Repair) -> None:
    """Leave the network as it is."""


@RECOVERY.register("lsq")
def _lsq(repair: Repair) -> None:
    """Least squares from the Gram matrices of the network before."""
    if repair.plan:
        before = repair.before
        grams = grams_of(before, repair.problem)
        least_squares(repair.after.model, before.model, before.groups, repair.plan, grams)


@RECOVERY.register("bn")
def _bn(repair: Repair) -> None:
    """Batch-norm statistics re-estimated on calibration images."""
    problem = repair.problem
    images = problem.data.calibration.first(BN_IMAGES)
    batches = images.batches(BN_BATCH, device=problem.device)
    recalibrate_bn(repair.after.model, (problem.task.inputs(batch) for batch in batches))


@RECOVERY.register("bn-delta")
def _bn_delta(repair: Repair) -> None:
    """Batch-norm statistics moved by what the removal changed, measured on calibration images."""
    problem = repair.problem
    images = problem.data.calibration.first(BN_IMAGES)
    calls = [problem.task.inputs(batch) for batch in images.batches(BN_BATCH, device=problem.device)]
    key = f"{fingerprint(repair.before.model.state_dict())}/{images.fingerprint()}/{problem.device}"
    if key not in _measured:
        _measured.clear()  # one network is pruned at a time; its candidates share what was measured on it
        _measured[key] = measure_bn(repair.before.model, calls)
    before = repair.before
    shift_bn(repair.after.model, before.model, calls, _measured[key], before.groups, repair.plan)


@RECOVERY.register("refit")
def _refit(repair: Repair) -> None:
    """Least squares on the pruned network's own activations; goes between `lsq` and a batch-norm step."""
    if repair.plan:
        problem, before = repair.problem, repair.before
        images = problem.data.calibration.first(REFIT_IMAGES)
        calls = [problem.task.inputs(batch) for batch in images.batches(GRAM_BATCH, device=problem.device)]
        refit(repair.after.model, before.model, before.groups, repair.plan, calls, seed=problem.spec.seed)


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

    def apply(
        self, before: PrunedNetwork, after: PrunedNetwork, plan: PruningPlan, problem: PruningProblem, seed: int
    ) -> None:
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


_cache: OrderedDict[str, GramStore] = OrderedDict()
_measured: dict[str, Statistics] = {}


def grams_of(network: PrunedNetwork, problem: PruningProblem) -> GramStore:
    """Gram matrices of a network on the problem's calibration images, collected once per content of the network.

    The key is a hash of the weights, so a fresh copy of the base network finds them again and a trained one does
    not. The least recently used are dropped beyond two gigabytes.
    """
    calibration = problem.data.calibration
    weights = fingerprint(network.model.state_dict())
    key = f"{weights}/{calibration.fingerprint()}/{len(network.groups.prunable)}/{problem.device}"
    found = _cache.get(key)
    if found is None:
        batches = calibration.batches(GRAM_BATCH, device=problem.device)
        calls = (problem.task.inputs(batch) for batch in batches)
        found = GramStore.collect(network.model, network.groups, calls, seed=problem.spec.seed)
        _cache[key] = found
        while len(_cache) > 1 and sum(store.bytes for store in _cache.values()) > CACHED_BYTES:
            _cache.popitem(last=False)
    _cache.move_to_end(key)
    return found


def clear_grams(network: PrunedNetwork | None = None) -> None:
    """Forget what was measured on a network, or on any: Gram matrices and batch-norm statistics."""
    weights = "" if network is None else fingerprint(network.model.state_dict())
    for measured in (_cache, _measured):
        for key in [key for key in measured if key.startswith(weights)]:
            del measured[key]
