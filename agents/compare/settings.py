"""What is compared: a grid of cells in plain values."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from rlprune.agents.compare.contestants import check_contestant
from rlprune.agents.controllers.base import AGENT
from rlprune.criteria import get_criterion
from rlprune.errors import UserError, check_rate
from rlprune.recovery import TrainSettings, make_recovery
from rlprune.spec import ProblemSpec

STAGES = ("prune", "finetune", "scratch")


@dataclass(frozen=True)
class Goal:
    """What a schedule is asked for.

    Attributes:
        kind: `budget` (the fraction of the MACs to keep; the score is what counts) or `tolerance` (the drop of the
            control score allowed; the MACs that go are what counts).
        value: The fraction, or the drop in [0, 1].
    """

    kind: str
    value: float

    def __str__(self) -> str:
        return f"{self.kind[0]}{self.value:g}"

    def to_json(self) -> dict[str, Any]:
        """Plain values only."""
        return asdict(self)


@dataclass(frozen=True)
class Cell:
    """One run of the comparison.

    Attributes:
        id: What its folder is called; unique within a comparison.
        controller: A rule, a search, or `agent:FILE`.
        spec: Network, data and seed.
        goal: What is asked for.
        shown: Controller, network and data as they are shown: without folders, where that leaves them apart.
    """

    id: str
    controller: str
    spec: ProblemSpec
    goal: Goal
    shown: tuple[str, str, str]

    def to_json(self) -> dict[str, Any]:
        """What identifies it in `comparison.json`."""
        return {
            "id": self.id,
            "controller": self.shown[0],
            "problem": {"model": self.shown[1], "data": self.shown[2]},
            "goal": self.goal.to_json(),
            "seed": self.spec.seed,
        }


@dataclass(frozen=True)
class PlaySettings:
    """The rules that all controllers of a comparison play by.

    Attributes:
        criterion: Name of the filter ranking.
        recovery: Names of the repairs after each removal, joined by `+`.
        max_rate: Most of a group that one round may remove; at a budget the limit of the single round.
        round_rate: The same for schedules that go round by round.
        rounds: Most rounds of those.
        skip: Kinds of groups that stay whole, such as `residual`.
        repair_epochs: Training, in epochs, that they may spend on a round to come back inside a tolerance.
        evaluations: Networks that a search may score.
        options: Settings of controllers, by controller and then by field name.
    """

    criterion: str = "l1"
    recovery: str = "lsq+bn-delta"
    max_rate: float = 0.9
    round_rate: float = 0.5
    rounds: int = 400
    skip: tuple[str, ...] = ()
    repair_epochs: float = 0.0
    evaluations: int = 60
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_rate("--max-rate", self.max_rate)
        check_rate("--round-rate", self.round_rate)
        for name, least in (("rounds", 1), ("evaluations", 1), ("repair_epochs", 0)):
            if getattr(self, name) < least:
                raise UserError(f"--{name.replace('_', '-')} is {getattr(self, name)}; it must be at least {least}")
        get_criterion(self.criterion)
        make_recovery(self.recovery, TrainSettings())

    def to_json(self) -> dict[str, Any]:
        """Plain values only."""
        options = {name: dict(own) for name, own in self.options.items()}
        return {**asdict(self), "skip": list(self.skip), "options": options}


@dataclass(frozen=True)
class TuneSettings:
    """The training budget that every cell gets after pruning.

    Attributes:
        finetune: Epochs in all; what a controller trained while it pruned is taken off. 0 leaves fine-tuning out.
        finetune_lr: Its learning rate (SGD, cosine).
        scratch: Train the pruned shape from scratch as well: the control that often wins.
        scratch_epochs: Its epochs; 0 takes as many as `finetune`.
        scratch_lr: Its learning rate.
        batch_size: Images a step in both.
    """

    finetune: float = 0.0
    finetune_lr: float = 0.01
    scratch: bool = False
    scratch_epochs: float = 0.0
    scratch_lr: float = 0.05
    batch_size: int = 128

    def __post_init__(self) -> None:
        for name in ("finetune", "scratch_epochs"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise UserError(f"--{name.replace('_', '-')} is {getattr(self, name)}; it must be a finite number >= 0")
        for name in ("finetune_lr", "scratch_lr"):
            if not 0 < getattr(self, name) < float("inf"):
                raise UserError(f"--{name.replace('_', '-')} is {getattr(self, name)}; it must be a finite number > 0")
        if self.batch_size < 1:
            raise UserError(f"--batch-size is {self.batch_size}; it must be at least 1")
        if self.scratch and not (self.finetune or self.scratch_epochs):
            raise UserError("--scratch needs a training budget: give --finetune EPOCHS or --scratch-epochs EPOCHS")

    @property
    def stages(self) -> tuple[str, ...]:
        """The stages of every cell, in their order."""
        wanted = {"prune": True, "finetune": self.finetune > 0, "scratch": self.scratch}
        return tuple(stage for stage in STAGES if wanted[stage])

    def training(self, stage: str) -> TrainSettings:
        """How `finetune` or `scratch` trains; what a controller trained while it pruned is not taken off yet."""
        if stage == "finetune":
            return TrainSettings(epochs=self.finetune, lr=self.finetune_lr, batch_size=self.batch_size)
        epochs = self.scratch_epochs or self.finetune
        return TrainSettings(epochs=epochs, lr=self.scratch_lr, batch_size=self.batch_size)


@dataclass(frozen=True)
class CompareSettings:
    """Everything that decides what a comparison gives, in plain values.

    Attributes:
        controllers: Names of rules and searches, and `agent:FILE` for trained agents.
        models: Networks; `NAME=FILE` gives the weights with it.
        data: Data sets.
        seeds: Each decides the data split and everything random.
        budgets: Fractions of the MACs to keep, each in (0, 1].
        tolerances: Drops allowed, each in [0, 1].
        baseline: The controller that the others are compared with seed by seed.
        problem: What all problems have in common; its model, data, weights and seed are not looked at.
        play: The rules of the game.
        tune: The training afterwards.
    """

    controllers: tuple[str, ...] = ("uniform", "pfec", "prc", "random", "cem")
    models: tuple[str, ...] = ("lenet5",)
    data: tuple[str, ...] = ("digits",)
    seeds: tuple[int, ...] = (0, 1, 2)
    budgets: tuple[float, ...] = ()
    tolerances: tuple[float, ...] = ()
    baseline: str = "uniform"
    problem: ProblemSpec = field(default_factory=ProblemSpec)
    play: PlaySettings = field(default_factory=PlaySettings)
    tune: TuneSettings = field(default_factory=TuneSettings)

    def __post_init__(self) -> None:
        for name in ("controllers", "models", "data", "seeds"):
            values = getattr(self, name)
            if not values:
                raise UserError(f"--{name} is empty; give at least one")
            doubles = sorted({str(value) for value in values if values.count(value) > 1})
            if doubles:
                raise UserError(f"--{name} has {doubles[0]!r} twice; give each once")
        if not self.goals:
            raise UserError("a comparison needs a goal: give --budgets or --tolerances")
        for budget in self.budgets:
            if not 0 < budget <= 1:
                raise UserError(f"--budgets has {budget}; each must lie in (0, 1], the fraction of the MACs to keep")
        for tolerance in self.tolerances:
            check_rate("--tolerances", tolerance)
        if self.baseline not in self.controllers:
            known = ", ".join(self.controllers)
            raise UserError(f"--baseline is {self.baseline!r}, which is not compared; choose one of: {known}")
        for controller in self.controllers:
            check_contestant(controller, self.play.options.get(controller, {}))

    @property
    def goals(self) -> tuple[Goal, ...]:
        """Budgets, then tolerances."""
        return (
            *(Goal("budget", value) for value in dict.fromkeys(self.budgets)),
            *(Goal("tolerance", value) for value in dict.fromkeys(self.tolerances)),
        )

    @property
    def shown(self) -> dict[str, str]:
        """Every controller as it is shown."""
        return brief(self.controllers)

    @property
    def name(self) -> str:
        """What the folder is called."""
        models = "-".join(_word(model.partition("=")[0]) for model in self.models)
        return f"compare-{models}-{'-'.join(map(_word, self.data))}"

    def cells(self) -> list[Cell]:
        """The grid, seed by seed, so that a comparison stopped early has compared something."""
        found: list[Cell] = []
        names: set[str] = set()
        controllers, models, sets = self.shown, brief(self.models), brief(self.data)
        for seed, model, data, goal, controller in itertools.product(
            self.seeds, self.models, self.data, self.goals, self.controllers
        ):
            name, equals, weights = model.partition("=")
            spec = replace(self.problem, model=name, data=data, weights=weights if equals else None, seed=seed)
            stem = f"{_word(name)}-{_word(data)}-{_word(controller)}-{goal}-s{seed}"
            unique, number = stem, 1
            while unique in names:  # two files of one name in different folders
                number += 1
                unique = f"{stem}-{number}"
            names.add(unique)
            shown = (controllers[controller], models[model], sets[data])
            found.append(Cell(unique, controller, spec, goal, shown))
        return found

    def to_json(self) -> dict[str, Any]:
        """Plain values only."""
        return {
            **{name: list(getattr(self, name)) for name in ("controllers", "models", "data", "seeds")},
            "budgets": list(self.budgets),
            "tolerances": list(self.tolerances),
            "baseline": self.baseline,
            "problem": self.problem.to_json(),
            "play": self.play.to_json(),
            "tune": asdict(self.tune),
        }


def brief(texts: Sequence[str]) -> dict[str, str]:
    """Short names of networks, data sets or controllers, or the whole text where two would be the same.

    >>> brief(["uniform", "agent:runs/ppo/agent.zip"])
    {'uniform': 'uniform', 'agent:runs/ppo/agent.zip': 'agent_ppo'}
    >>> brief(["a/x.npz", "b/x.npz"])
    {'a/x.npz': 'a/x.npz', 'b/x.npz': 'b/x.npz'}
    """
    words = {text: _word(text.partition("=")[0]) for text in texts}
    counts = Counter(words.values())
    return {text: word if counts[word] == 1 else text for text, word in words.items()}


def _word(text: str) -> str:
    """A name that can be part of a file name: of paths the stem, of `module:function` the function."""
    path = Path(text.removeprefix(AGENT) if text.startswith(AGENT) else text.rpartition(":")[2])
    stem = path.parent.name if text.startswith(AGENT) and path.stem == "agent" else path.stem
    word = "".join(c if c.isalnum() or c in "-._" else "_" for c in stem) or "x"
    return f"agent_{word}" if text.startswith(AGENT) else word
