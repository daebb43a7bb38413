"""What follows a removal: the cheap repairs, then training, as the law or the recipe says."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from rlprune.agents.runs.recipe import Recipe
from rlprune.agents.runs.watching import Watcher, follow
from rlprune.artifact import fingerprint
from rlprune.channels import PruningPlan
from rlprune.channels.regrowth import regrow
from rlprune.drops import score_drop
from rlprune.errors import calling
from rlprune.network import Network
from rlprune.problem import PruningProblem
from rlprune.recovery import Recovery
from rlprune.scoring.evaluation import evaluating
from rlprune.scoring.folding import foldable, folded
from rlprune.seeding import derive
from rlprune.training.imitation import Teacher
from rlprune.training.loop import train
from rlprune.training.report import TrainReport
from rlprune.training.settings import TrainSettings


@dataclass(frozen=True)
class Cycle:
    """One training after a removal.

    Attributes:
        settings: How, and for how many epochs.
        enough: Train only while the drop is above this, and no longer; None trains the cycle to its end.
        floor: Drop that must be reached; a cycle that cannot any more is cut short. None never cuts.
        file: Where its state is kept, so that it can go on after a stop; None keeps none.
        left: Epochs left in the budget, this training's among them.
        regrow: Begin with what a larger cut from the same network has learnt, if that is better than the repairs.
    """

    settings: TrainSettings
    enough: float | None = None
    floor: float | None = None
    file: Path | None = None
    left: float = 0.0
    regrow: bool = False


@dataclass(frozen=True)
class Healed:
    """What a training came to.

    Attributes:
        before: Drop before it, after the cheap repairs.
        after: Drop after it; the same without one.
        epochs: Epochs that were trained.
        cut_short: Whether the training was given up.
        losses: Mean training loss of every epoch.
        pace: Layout and precision that it was done in, as `TrainSettings` takes them; None without one.
        regrown: Whether it began with what a smaller network had learnt.
    """

    before: float
    after: float
    epochs: float = 0.0
    cut_short: bool = False
    losses: tuple[float, ...] = ()
    pace: Mapping[str, Any] | None = None
    regrown: bool = False

    @property
    def gained(self) -> float:
        """How much of the drop it took back."""
        return self.before - self.after


@dataclass(frozen=True)
class Lost:
    """A network that was trained after a removal: what it learnt is worth something where it went too far.

    Attributes:
        before: Everything that had been removed before, numbered as the base network is.
        plan: The removal, numbered as the network before it was.
        weights: The trained network's tensors by name.
    """

    before: PruningPlan
    plan: PruningPlan
    weights: dict[str, Tensor]

    @classmethod
    def of(cls, before: Network, plan: PruningPlan, model: nn.Module) -> Lost:
        """What a removal from `before` and the training after it made."""
        weights = {name: value.detach().cpu().clone() for name, value in model.state_dict().items()}
        return cls(before.plan, plan, weights)

    def to_dict(self) -> dict[str, Any]:
        """As tensors and plain values."""
        return {"before": self.before.to_json(), "plan": self.plan.to_json(), "weights": self.weights}

    @classmethod
    def from_dict(cls, saved: Mapping[str, Any]) -> Lost:
        """What `to_dict` gave."""
        return cls(PruningPlan.from_json(saved["before"]), PruningPlan.from_json(saved["plan"]), saved["weights"])


class Heal:
    """A recovery that trains after the cheap repairs; the best epoch on control is what comes out.

    Args:
        cheap: Repairs that need no training (or train by themselves, as `finetune`).
        watcher: Told what goes on.
        stopped: Asked after every epoch whether time is up.
        teacher: Of all trainings of the run (see `teacher_of`).
    """

    def __init__(
        self, cheap: Recovery, watcher: Watcher, stopped: Callable[[], bool], teacher: Teacher | None = None
    ) -> None:
        self.cheap, self.watcher, self.stopped, self.teacher = cheap, watcher, stopped, teacher
        self.cycle: Cycle | None = None
        self.last: Healed | None = None
        self.lost: Lost | None = None  # what was trained last, until it is accepted

    @property
    def key(self) -> str:
        """What it does now, as text."""
        if self.cycle is None or self.cycle.settings.epochs <= 0:
            return self.cheap.key  # so that what was tried with the cheap repairs alone is known already
        plan: dict[str, Any] = {**asdict(self.cycle), "file": None, "left": None}
        if self.lost is not None and self.cycle.regrow:
            plan |= {"removed": self.lost.plan.to_json(), "weights": fingerprint(self.lost.weights)}
        return f"{self.cheap.key} then {plan}"

    def apply(self, before: Network, after: Network, plan: PruningPlan, problem: PruningProblem, seed: int) -> None:
        """Repair `after.model` in place; `last` says how it went."""
        self.cheap.apply(before, after, plan, problem, seed)
        cycle, self.last = self.cycle, None
        if cycle is None or cycle.settings.epochs <= 0:  # whoever asked for the repair scores it
            return
        harm = drop_of(problem, after.model)
        regrown, harm = self._regrow(before, after, plan, problem, harm)
        self.last = Healed(harm, harm, regrown=regrown)
        if cycle.enough is not None and harm <= cycle.enough:
            return
        found = self.fit(problem, after.model, cycle, harm, derive(seed, "heal"))
        self.last, self.lost = replace(found, regrown=regrown), Lost.of(before, plan, after.model)

    def _regrow(
        self, before: Network, after: Network, plan: PruningPlan, problem: PruningProblem, harm: float
    ) -> tuple[bool, float]:
        """Begin as the cycle says; whether it does, and the drop there."""
        lost, cycle = self.lost, self.cycle
        if lost is None or cycle is None or not cycle.regrow or lost.before != before.plan:
            return False, harm
        other = after.copy()
        regrow(other.model, before.model, before.groups, plan, lost.weights, lost.plan)
        drop = drop_of(problem, other.model)
        if drop >= harm:
            return False, harm
        after.model.load_state_dict(other.model.state_dict())
        return True, drop

    def fit(self, problem: PruningProblem, model: nn.Module, cycle: Cycle, harm: float, seed: int) -> Healed:
        """One training of the run (see `fit_cycle`)."""
        return fit_cycle(problem, model, cycle, harm, seed, self.watcher, self.stopped, self.teacher)


def drop_of(problem: PruningProblem, model: nn.Module) -> float:
    """A network's drop on the control split."""
    return score_drop(problem.baseline.value, problem.evaluator.score(model, "control").value)


def teacher_of(problem: PruningProblem, recipe: Recipe) -> Teacher | None:
    """The unpruned network, for all trainings of a run, its batch norms folded: a twentieth of a step is saved.

    On an accelerator it answers too fast to be worth a memory.
    """
    if not problem.trains or problem.fit is not None or not problem.task.distillable:
        return None
    epochs = recipe.epochs if problem.device.type == "cpu" and recipe.repair.distillation else None
    answers = 0
    if epochs:
        with evaluating(problem.model), torch.no_grad():
            output = problem.model(*problem.example_inputs)
        answers = images(problem) * sum(leaf.numel() for leaf in tree_leaves(output) if isinstance(leaf, torch.Tensor))
    quick = folded(problem.model, foldable(problem.model, problem.example_inputs))
    return Teacher.of_run(quick, epochs or 0.0, answers, seed=derive(problem.seed, "looks"))


def fit_cycle(
    problem: PruningProblem,
    model: nn.Module,
    cycle: Cycle,
    harm: float,
    seed: int,
    watcher: Watcher,
    stopped: Callable[[], bool],
    teacher: Teacher | None = None,
) -> Healed:
    """Train a network in place; it comes out as its best epoch on control, or as it was.

    The ledger is charged the same whether or not the training was interrupted.
    """
    if problem.fit is not None:
        return _own_fit(problem, model, cycle, harm)
    settings, spent = cycle.settings, problem.ledger.state_dict()
    distils = settings.distillation > 0 and problem.task.distillable
    report = train(
        model,
        problem.task,
        problem.data.split("train"),
        settings if distils else replace(settings, distillation=0.0),
        seed=seed,
        teacher=(teacher or problem.model) if distils else None,
        monitor=lambda network: -drop_of(problem, network),
        start=-harm,
        enough=float("inf") if cycle.enough is None else -cycle.enough,
        hopeless=lambda so_far: stopped() or _hopeless(so_far, cycle),
        checkpoint=cycle.file,
        on_step=follow(watcher, settings.epochs, cycle.left),
        device=problem.device,
    )
    looks, control = len(report.scores), len(problem.data.control) if problem.data.control is not None else 0
    spent["evaluations"] += looks
    spent["images_evaluated"] += looks * control
    spent["images_trained"] += report.images
    problem.ledger.load_state_dict(spent)
    best = max([-harm, *report.scores])
    pace = {"layout": report.layout, "amp": report.amp} if report.layout else None
    return Healed(harm, -best, report.images / images(problem), report.stopped_early, tuple(report.losses), pace)


def images(problem: PruningProblem) -> int:
    """Training images of an epoch; 1 where only the user's own training knows."""
    return max(1, len(problem.data.train)) if problem.data.train is not None else 1


def _own_fit(problem: PruningProblem, model: nn.Module, cycle: Cycle, harm: float) -> Healed:
    assert problem.fit is not None
    state = {name: value.detach().clone() for name, value in model.state_dict().items()}
    epochs = max(1, round(cycle.settings.epochs))
    modes = [(module, module.training) for module in model.modules()]
    with calling("fit="):
        problem.fit(model.train(), epochs)
    model.to(problem.device)
    for module, training in modes:
        module.training = training
    problem.ledger.images_trained += epochs * images(problem)
    drop = drop_of(problem, model)
    if drop > harm:
        model.load_state_dict(state)
    return Healed(harm, min(harm, drop), float(epochs))


def _hopeless(report: TrainReport, cycle: Cycle) -> bool:
    """Whether the curve cannot reach the floor any more: three times the gain of its last third is not enough."""
    if cycle.floor is None or len(report.scores) < 4:
        return False
    done, whole = len(report.scores), cycle.settings.epochs
    if done < 0.6 * whole or done >= whole:
        return False
    best, earlier = max(report.scores), max(report.scores[: max(1, (2 * done) // 3)])
    return best + 3.0 * max(best - earlier, 0.0) < -2.0 * cycle.floor


def record_of(healed: Healed | None) -> Mapping[str, Any]:
    """What a round's record says of it."""
    if healed is None:
        return {}
    told = {"harm": healed.before, "epochs": healed.epochs, "cut_short": healed.cut_short}
    return {**told, "regrown": True} if healed.regrown else told
