"""A recipe: everything that decides how a network is pruned, as a value. Importing it needs no torch."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import yaml

from rlprune.agents.controllers.registry import RULES, make_rule, rule_class
from rlprune.envs.rules import ON_VIOLATION, check_confidence, check_tolerance
from rlprune.errors import UserError, check_count, check_known, check_number, check_rate, reading, unknown_name
from rlprune.files import read_yaml
from rlprune.kinds import check_kinds
from rlprune.report.units import ANY_DROP
from rlprune.training.settings import TrainSettings
from rlprune.typed import as_table, check_fields, check_table, checked

AGENT = "agent:"
CHECKS = ("round", "end")
SAMPLES = 4  # schedules of its own tried before every round, where a trained agent seeks a tolerance
PHASES = ("press", "repair", "finish")
TRAINING = {item.name for item in fields(TrainSettings)} - {"epochs"}


@dataclass(frozen=True)
class Recipe:
    """Controller, criterion, recovery, rules of the game, and how each phase trains.

    A recipe that is not `published` seeks the smallest network inside the tolerance (or the target), with one budget of
    training epochs, whatever its controller; a published one plays its paper's text, with the rules at the end.

    Attributes:
        tolerance: Largest drop of the control score, >= 0, in the score's own units.
        budget: Fraction of the MACs to end at, or as near to it as the tolerance allows; None goes as far as it can.
        confidence: Accept a network only where its drop is inside the tolerance with this probability, such as 0.9; 0
            takes the drop as it is.
        epochs: Training budget of the whole run; None chooses by the size of the job.
        minutes: Stop after this time, with the best network so far; None does not look at the clock.
        controller: What sets the rates: a rule's name, or `agent:FILE` for a trained agent.
        criterion: Ranking of the filters, with options behind it where wanted, as in `l1:combine=max`.
        recovery: Repairs after each removal that need no training, joined by `+`.
        skip: Kinds of groups that stay whole: `residual`, `depthwise`, `grouped`, `concatenated`, `transposed`,
            `linear`.
        max_rate: Most of a group that one round may remove.
        samples: Schedules to try before the best is played. Of a trained agent before every round, beside those of the
            rule `prc`; 1 plays the agent alone (None: 4 where it seeks a tolerance alone). Published, whole episodes of
            a controller that draws.
        published: Play the paper's own schedule and stop.
        rounds: Stop after this many rounds; None goes on.
        once: Published: remove everything in one round; what comes out of tolerance is tried again with less.
        attempts: Published: how often; each attempt keeps the square root of the share of the MACs of the one before.
        check: Published: when the tolerance is checked: after every `round`, or at the `end`, after the finish.
        on_violation: Published: after a removal that is rolled back: `stop`, or `retry` at half the largest rate.
        repair_to: Published: share of the tolerance that the repair comes back to.
        press: Training before a removal, of the rules that have one.
        repair: Training after a removal; `epochs` counts where the recipe is published.
        finish: Training at the end; `epochs` counts where the recipe is published.
        options: The controller's own, by name.
        method: The name that the recipe is known by.
        summary: What it does, in a line.
    """

    tolerance: float = 0.01
    budget: float | None = None
    confidence: float = 0.0
    epochs: float | None = None
    minutes: float | None = None
    controller: str = "prc"
    criterion: str = "l1"
    recovery: str = "lsq+bn-delta"
    skip: tuple[str, ...] = ("residual",)
    max_rate: float = 0.95
    samples: int | None = None
    published: bool = False
    rounds: int | None = None
    once: bool = False
    attempts: int = 4
    check: str = "round"
    on_violation: str = "stop"
    repair_to: float = 1.0
    press: TrainSettings = field(default_factory=lambda: TrainSettings(epochs=1.0, orthogonality=1e-4))
    repair: TrainSettings = field(default_factory=TrainSettings)
    finish: TrainSettings = field(default_factory=lambda: TrainSettings(epochs=0.0))
    options: Mapping[str, Any] = field(default_factory=dict)
    method: str = "prc"
    summary: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "skip", check_kinds("skip", self.skip))
        check_fields(self)
        check_tolerance("tolerance", self.tolerance)
        check_confidence(self.confidence)
        check_rate("max_rate", self.max_rate)
        check_rate("repair_to", self.repair_to)
        if self.budget is not None and not 0.0 < self.budget <= 1.0:
            raise UserError(f"budget is {self.budget}; it must lie in (0, 1], the fraction of the MACs to keep")
        for name in ("rounds", "attempts", "samples"):
            check_count(name, getattr(self, name))
        for name in ("epochs", "minutes"):
            if getattr(self, name) is not None:
                check_number(name, getattr(self, name), above_zero=name == "minutes")
        if (self.samples or 1) > 1 and not self.published and not self.controller.startswith(AGENT):
            raise UserError(
                f"samples is {self.samples}, and at a tolerance they are of a trained agent: leave it out, or play "
                "a schedule that is published, as `rlprune episode` does without --tolerance"
            )
        check_known("check", self.check, CHECKS)
        check_known("on_violation", self.on_violation, ON_VIOLATION)
        if self.controller.startswith(AGENT):
            if self.options:
                raise UserError(f"{self.controller} takes no options; it was trained with its own")
        elif self.options:
            make_rule(self.controller, self.options)
            if self.budget is not None and self.controller == "uniform" and self.options.get("rate") is not None:
                raise UserError(
                    f"a uniform rate of {self.options['rate']} and a budget of {self.budget} of the MACs contradict "
                    "each other: leave one out (--target-macs none, or no --uniform.rate)"
                )
        elif self.controller not in RULES:
            raise unknown_name("controller", self.controller, [*RULES, f"{AGENT}FILE"])

    @property
    def samples_tried(self) -> int:
        """How many schedules are tried before the best is played."""
        seeks = self.controller.startswith(AGENT) and not self.published and self.budget is None
        return self.samples or (SAMPLES if seeks else 1)

    def change(self, besides: Collection[str] = (), /, **changes: Any) -> Recipe:
        """This recipe with other values.

        Args:
            besides: Other names that whoever misspelled one may have meant.
            changes: Fields of it; fields of `TrainSettings`, for all phases; a phase's own as a dict or `TrainSettings`
                (`repair={"lr": 0.02}`); and options of the controller, by themselves or as a dict behind its name
                (`prc={"alpha": 0.2}`). A tolerance of None forbids nothing: the budget alone is the goal.

        Raises:
            UserError: For a name that is none of these, or a value that cannot be.
        """
        own = {item.name for item in fields(self)}
        if "target_macs" in changes:  # as the command line calls it, too
            changes["budget"] = changes.pop("target_macs")
        if changes.get("tolerance", 0.0) is None:
            changes["tolerance"] = ANY_DROP
        controller = changes.get("controller", self.controller)
        others = set(changes) - own - set(PHASES) - set(RULES)
        rule = _options_of(controller) if others else set()  # its module is imported only if it is asked
        values: dict[str, Any] = {}
        options = dict(self.options) if controller == self.controller else {}
        training = {name: value for name, value in changes.items() if name in TRAINING and name not in own | rule}
        for phase in PHASES:
            given = changes.get(phase, {})
            given = asdict(given) if isinstance(given, TrainSettings) else checked(Mapping[str, Any], given, phase)
            values[phase] = _trained(phase, getattr(self, phase), {**training, **given})
        for name, value in changes.items():
            if name in PHASES or name in training:
                continue
            if name in own:
                values[name] = tuple(checked(list[str] | tuple[str, ...], value, name)) if name == "skip" else value
            elif name in rule:
                options[name] = value
            elif name in RULES:
                if name != controller and value:
                    raise UserError(f"{name} is not this run's controller, {controller!r} is: leave its options out")
                options |= dict(value)
            else:
                raise unknown_name("option", name, own | rule | TRAINING | {*besides})
        return replace(self, **{**values, "options": {**options, **dict(changes.get("options", {}))}})

    def to_json(self) -> dict[str, Any]:
        """Plain values only."""
        return as_table(self)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Recipe:
        """The recipe that `to_json` wrote; raises UserError for what it did not."""
        if not isinstance(content, Mapping):
            raise UserError(f"a recipe is a table of options by name, and this is a {type(content).__name__}")
        check_table(cls, content, "the recipe")
        check_table(TrainSettings, {name: content[name] for name in TRAINING & set(content)}, "the recipe")
        for name in set(RULES) & set(content):
            checked(Mapping[str, Any], content[name], f"the recipe: {name}")
        return cls().change(**{**content, "controller": content.get("controller", "prc")})

    def to_yaml(self) -> str:
        """What `read_recipe` reads; only what differs from the defaults, and the controller."""
        default = Recipe(controller=self.controller).to_json()
        mine = self.to_json()
        for phase in PHASES:
            mine[phase] = {k: v for k, v in mine[phase].items() if v != default[phase][k]}
        kept = {k: v for k, v in mine.items() if k in ("controller", "tolerance") or (v != default[k] and v != {})}
        text: str = yaml.safe_dump(kept, sort_keys=False)
        return text


def _options_of(controller: str) -> set[str]:
    return set() if controller.startswith(AGENT) else {item.name for item in fields(rule_class(controller))}  # type: ignore[arg-type]


def _trained(phase: str, settings: TrainSettings, given: Mapping[str, Any]) -> TrainSettings:
    known = {item.name for item in fields(TrainSettings)}
    for name in given:
        check_known(f"option of {phase}", name, known)
    milestones = {"milestones": tuple(given["milestones"])} if "milestones" in given else {}
    if given.get("schedule", "step") != "step":  # the recipe's own are of the schedule that it had
        milestones.setdefault("milestones", ())
    return replace(settings, **{**given, **milestones})


def read_recipe(path: str | Path) -> Recipe:
    """A recipe from a YAML file; raises UserError naming the file for anything that is none."""
    content = read_yaml(Path(path), "recipe")
    with reading(path, "a recipe"):
        return Recipe.from_json(content)
