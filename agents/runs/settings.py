"""What a pruning run is asked to do, in plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from rlprune.agents.controllers.base import Controller, make_controller
from rlprune.criteria import get_criterion
from rlprune.envs.rules import ON_VIOLATION
from rlprune.errors import UserError, check_rate, unknown_name
from rlprune.record import run_name, subject
from rlprune.recovery import TrainSettings, make_recovery
from rlprune.spec import ProblemSpec

CHECKS = ("round", "end")
KINDS = ("depthwise", "grouped", "residual", "concatenated", "transposed", "linear")


@dataclass(frozen=True)
class PruneSettings:
    """Everything that decides what a run gives, in plain values.

    Attributes:
        problem: Network and data.
        method: The recipe that the other values were taken from (`rlprune methods` lists them).
        controller: A name of `rlprune.agents.RULES`, or `agent:FILE` for a trained agent.
        controller_options: Its settings, by field name; missing ones keep their defaults.
        samples: Episodes to play, of which the best is kept: the one the controller would play anyway, and others drawn
            from its policy, or of a search from other random streams. All are scored, and counted.
        criterion: Name of the filter ranking.
        recovery: Names of the repairs after each removal, joined by `+`.
        tolerance: Largest drop of the control score allowed, in [0, 1].
        target_macs: Stop once the MACs are at most this fraction of the unpruned network's; None goes on.
        max_rate: Most of a group that one round may remove.
        rounds: Stop after this many rounds; None goes on until nothing can be removed.
        one_shot: Remove everything in one round. What comes out of tolerance is tried again with less removed.
        attempts: How often a one-shot method may try; each attempt keeps the square root of the share of the MACs that
            the one before kept.
        check: When the tolerance is checked: after every `round`, or at the `end`, after fine-tuning; then, if the
            last network is outside, the smallest one on the way that was inside is handed back. Many rounds without
            a target are checked after every round.
        on_violation: What follows a removal that leaves the tolerance and is rolled back: `stop`, or `retry` at half
            the largest rate; `prc` then allows half the immediate drop, too.
        skip: Kinds of groups that stay whole: `residual`, `depthwise`, `grouped`, `concatenated`, `transposed`,
            `linear`.
        round_epochs: Epochs of the recovery's `finetune` step, after every removal.
        repair_epochs: Training, in epochs, that a round may spend to come back inside the tolerance.
        repair_to: Share of the tolerance that the repair comes back to. Less than 1 leaves the rounds to come some
            slack, at the cost of more training; a round counts as inside the tolerance all the same.
        optimizer: Of the training between removals: `sgd` or `adamw`.
        lr: Learning rate of it.
        batch_size: Images a step in it.
        weight_decay: L2 penalty in it.
        orthogonality: Weight of the orthogonality penalty in it (see `Orthogonality`).
        amp: Mixed precision (bfloat16) in it: twice as fast on GPUs and on recent CPUs.
        total_epochs: Epochs of training in all, each attempt. Fine-tuning then takes what is left of them, and its
            milestones count from the start of the pruning; None trains for as long as fine-tuning says.
        finetune: How the network is trained once the pruning is over; the better of before and after is kept.
    """

    problem: ProblemSpec = field(default_factory=ProblemSpec)
    method: str = "prc"
    controller: str = "prc"
    controller_options: Mapping[str, Any] = field(default_factory=dict)
    samples: int = 1
    criterion: str = "l1"
    recovery: str = "lsq+bn-delta"
    tolerance: float = 0.01
    target_macs: float | None = None
    max_rate: float = 0.5
    rounds: int | None = None
    one_shot: bool = False
    attempts: int = 4
    check: str = "round"
    on_violation: str = "stop"
    skip: tuple[str, ...] = ()
    round_epochs: float = 1.0
    repair_epochs: float = 10.0
    repair_to: float = 1.0
    optimizer: str = "sgd"
    lr: float = 0.01
    batch_size: int = 128
    weight_decay: float = 5e-4
    orthogonality: float = 0.0
    amp: bool = False
    total_epochs: float | None = None
    finetune: TrainSettings = field(default_factory=lambda: TrainSettings(epochs=0.0))

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise UserError(f"--samples is {self.samples}; it must be at least 1")
        self.make_controller()
        get_criterion(self.criterion)
        make_recovery(self.recovery, self.training)
        check_rate("--tolerance", self.tolerance)
        check_rate("--max-rate", self.max_rate)
        check_rate("--repair-to", self.repair_to)
        if self.target_macs is not None:
            check_rate("--target-macs", self.target_macs)
            if self.controller == "uniform" and self.controller_options.get("rate") is not None:
                raise UserError(
                    f"a uniform rate of {self.controller_options['rate']} and a target of {self.target_macs} "
                    "of the MACs contradict each other: leave one out (--target-macs none, or no --uniform-rate)"
                )
        for name in ("rounds", "attempts"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"--{name} is {value}; it must be at least 1")
        for name in ("repair_epochs", "total_epochs"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < float("inf"):
                raise UserError(f"--{name.replace('_', '-')} is {value}; it must be a finite number >= 0")
        if self.check not in CHECKS:
            raise unknown_name("--check", self.check, CHECKS)
        if self.on_violation not in ON_VIOLATION:
            raise unknown_name("--on-violation", self.on_violation, ON_VIOLATION)
        for kind in self.skip:
            if kind not in KINDS:
                raise unknown_name("kind of group in --skip", kind, [*KINDS, "none"])

    def make_controller(self) -> Controller:
        """The controller, untouched by any environment."""
        controller = make_controller(self.controller, self.controller_options)
        if self.samples == 1:
            return controller
        from rlprune.agents.controllers.sampling import BestOf  # looks up the searches, which look up these settings

        return BestOf(controller, self.samples)

    @property
    def seed(self) -> int:
        """The problem's seed is the seed of everything random."""
        return self.problem.seed

    @property
    def training(self) -> TrainSettings:
        """How to train between removals."""
        return TrainSettings(
            epochs=self.round_epochs,
            optimizer=self.optimizer,
            lr=self.lr,
            batch_size=self.batch_size,
            weight_decay=self.weight_decay,
            schedule="constant",
            orthogonality=self.orthogonality,
            amp=self.amp,
        )

    def finetuning(self, trained: float) -> TrainSettings:
        """How to fine-tune after so many epochs of training between removals."""
        if self.total_epochs is None:
            return self.finetune
        left = max(self.total_epochs - trained, 0.0)
        milestones = tuple(max(milestone - trained, 0.0) for milestone in self.finetune.milestones)
        return replace(self.finetune, epochs=left, milestones=milestones)

    @property
    def checked_at_end(self) -> bool:
        """Whether networks outside the tolerance may be gone through on the way."""
        return self.check == "end" and (self.one_shot or self.target_macs is not None)

    @property
    def name(self) -> str:
        """What the run folder is called."""
        who = Path(self.controller.partition(":")[2] or self.controller).stem if self.method == "prc" else self.method
        words = subject(self.problem.model, self.problem.data)
        return run_name(*words, who, f"t{self.tolerance:g}", f"s{self.seed}")

    def to_json(self) -> dict[str, Any]:
        """Plain values only."""
        return {
            **asdict(self),
            "problem": self.problem.to_json(),
            "controller_options": dict(self.controller_options),
            "skip": list(self.skip),
            "finetune": {**asdict(self.finetune), "milestones": list(self.finetune.milestones)},
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> PruneSettings:
        """The settings that `to_json` wrote."""
        finetune = dict(content.get("finetune", {"epochs": 0.0}))
        finetune["milestones"] = tuple(finetune.get("milestones", ()))
        return cls(
            **{
                **content,
                "problem": ProblemSpec.from_json(content["problem"]),
                "skip": tuple(content.get("skip", ())),
                "finetune": TrainSettings(**finetune),
            }
        )
