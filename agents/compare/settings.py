"""What is compared: a grid of recipes, goals and seeds in plain values. Importing it needs no torch."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from rlprune.agents.controllers.registry import RULES
from rlprune.agents.rl.assets import agent_file
from rlprune.agents.runs.population import expanded
from rlprune.agents.runs.recipe import AGENT, PHASES, Recipe
from rlprune.agents.runs.recipes import RECIPES, get_recipe
from rlprune.envs.rules import check_tolerance
from rlprune.errors import UserError
from rlprune.spec import ProblemSpec
from rlprune.typed import as_table, from_table

MANY = 6  # networks that are counted, not named, in the folder's name

OWN = frozenset({"tolerance", "budget", "epochs", "minutes", "controller", "method", "summary", "options"})
"""Fields of a recipe that the grid or the method decides."""


@dataclass(frozen=True)
class Goal:
    """What a recipe is asked for.

    Attributes:
        kind: `tolerance` (the drop of the control score allowed; fewest MACs win) or `budget` (the fraction of the MACs
            to keep, whatever the drop; the best score wins).
        value: The drop, or the fraction.
    """

    kind: str
    value: float

    def __str__(self) -> str:
        return f"{self.kind[0]}{self.value:g}"

    def asked_of(self, recipe: Recipe) -> Recipe:
        """The recipe with this goal in the place of its own."""
        by_budget = self.kind == "budget"
        return recipe.change(tolerance=None if by_budget else self.value, budget=self.value if by_budget else None)

    def met(self, drop: float, macs_left: float) -> bool:
        """Whether a network does what is asked for."""
        return macs_left <= self.value if self.kind == "budget" else drop <= self.value


@dataclass(frozen=True)
class Cell:
    """One run of the comparison: `prune_problem(spec.build(), recipe)`.

    Attributes:
        id: What its folder is called; unique within a comparison.
        spec: Network, data and seed.
        recipe: How it is pruned, goal included.
        goal: What is asked for.
        shown: Method, network and data as they are shown: without folders, where that leaves them apart.
        stages: `prune`, and `scratch` where the pruned shape is trained from scratch too.
    """

    id: str
    spec: ProblemSpec
    recipe: Recipe
    goal: Goal
    shown: tuple[str, str, str]
    stages: tuple[str, ...] = ("prune",)

    @cached_property
    def parameters(self) -> dict[str, Any]:
        """What decides its results, as JSON gives it back: a result with other parameters is not this cell's."""
        return {"recipe": self.recipe.to_json(), "problem": self.spec.to_json(), "goal": asdict(self.goal)}

    def to_json(self) -> dict[str, Any]:
        """What identifies it in `comparison.json`."""
        return {
            "id": self.id,
            "controller": self.shown[0],
            "problem": {"model": self.shown[1], "data": self.shown[2]},
            "goal": asdict(self.goal),
            "seed": self.spec.seed,
        }


@dataclass(frozen=True)
class CompareSettings:
    """Everything that decides what a comparison gives, in plain values.

    Attributes:
        methods: Recipes by name (`rlprune methods`), names of rules, `agent:FILE`, and recipes of your own as YAML
            files.
        models: Networks; `NAME=FILE` gives the weights with it; `population:FOLDER` is all that it holds.
        data: Data sets.
        seeds: Each decides the data split and everything random.
        tolerances: Drops of the control score allowed, in its own units; 0.01 where neither these nor budgets are
            given.
        budgets: Fractions of the MACs to keep, whatever the drop, each in (0, 1].
        epochs: Training budget of every cell; None chooses by the size of the job, 0 trains nothing.
        scratch: Train every pruned shape from fresh weights too, for as many epochs: the control that often wins.
        baseline: The method that the others are compared with seed by seed; None takes uniform, else the first.
        problem: What all problems have in common; its model, data, weights and seed are not looked at.
        changes: What all recipes are changed to, as `Recipe.change` takes it, a controller's options behind its name:
            `{"lr": 0.02, "cem": {"episodes": 60}}`.
    """

    methods: tuple[str, ...] = ("uniform", "error", "pfec", "prc")
    models: tuple[str, ...] = ("lenet5",)
    data: tuple[str, ...] = ("digits",)
    seeds: tuple[int, ...] = (0, 1, 2)
    tolerances: tuple[float, ...] = ()
    budgets: tuple[float, ...] = ()
    epochs: float | None = None
    scratch: bool = False
    baseline: str | None = None
    problem: ProblemSpec = field(default_factory=ProblemSpec)
    changes: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "models", expanded(self.models))
        for name in ("methods", "models", "data", "seeds", "tolerances", "budgets"):
            values = getattr(self, name)
            if not values and name not in ("tolerances", "budgets"):
                raise UserError(f"--{name} is empty; give at least one")
            doubles = sorted({str(value) for value in values if values.count(value) > 1})
            if doubles:
                raise UserError(f"--{name} has {doubles[0]!r} twice; give each once")
        for tolerance in self.tolerances:
            check_tolerance("--tolerances", tolerance)
        for budget in self.budgets:
            if not 0 < budget <= 1:
                raise UserError(f"--budgets has {budget}; each must lie in (0, 1], the fraction of the MACs to keep")
        if self.scratch and self.epochs == 0:
            raise UserError("--scratch needs training, and --epochs is 0; give the epochs it may take")
        if self.baseline is not None and self.baseline not in self.methods:
            known = ", ".join(self.methods)
            raise UserError(f"--baseline is {self.baseline!r}, which is not compared; choose one of: {known}")
        running = {recipe.controller for recipe in self.recipes.values()}
        for name in self.changes:
            if name in OWN:
                raise UserError(f"{name} is no change that all recipes share; it is the comparison's own")
            if name in RULES and name not in running:
                raise UserError(f"{name!r} has options, and is not compared; compared: {', '.join(self.methods)}")

    @cached_property
    def recipes(self) -> dict[str, Recipe]:
        """The recipe of every method, without a goal."""
        return {method: self._recipe(method) for method in self.methods}

    def _recipe(self, method: str) -> Recipe:
        plain = RECIPES["uniform"]
        if method.startswith(AGENT):
            agent_file(method.removeprefix(AGENT))
            recipe = replace(plain, controller=method, method="agent", summary="A trained agent")
        elif method in RULES and method not in RECIPES:
            recipe = replace(plain, controller=method, method=method, summary="")
        else:
            recipe = get_recipe(method)
        shared = {name: value for name, value in self.changes.items() if name not in OWN}
        shared = {name: value for name, value in shared.items() if name not in RULES or name == recipe.controller}
        recipe = recipe.change(**shared) if shared else recipe
        for phase in PHASES:  # chosen by timing in every process it would not be the same in all cells
            if getattr(recipe, phase).amp == "auto":
                recipe = replace(recipe, **{phase: replace(getattr(recipe, phase), amp=False)})
        return recipe if self.epochs is None else replace(recipe, epochs=float(self.epochs))

    @property
    def goals(self) -> tuple[Goal, ...]:
        """Tolerances, then budgets."""
        tolerances = self.tolerances or (() if self.budgets else (0.01,))
        return (*(Goal("tolerance", value) for value in tolerances), *(Goal("budget", value) for value in self.budgets))

    @property
    def reference(self) -> str:
        """The baseline as it is shown."""
        return brief(self.methods)[self.baseline or ("uniform" if "uniform" in self.methods else self.methods[0])]

    @property
    def name(self) -> str:
        """What the folder is called."""
        words = [_word(name.partition("=")[0]) for name in self.models]
        words = words if len(words) < MANY else [f"{len(words)}-networks"]
        return "-".join(["compare", *words, *map(_word, self.data)])

    def cells(self) -> list[Cell]:
        """The grid, seed by seed, so that a comparison stopped early has compared something."""
        found: list[Cell] = []
        names: Counter[str] = Counter()
        methods, models, sets = brief(self.methods), brief(self.models), brief(self.data)
        stages = ("prune", "scratch") if self.scratch else ("prune",)
        for seed, model, data, goal, method in itertools.product(
            self.seeds, self.models, self.data, self.goals, self.methods
        ):
            name, equals, weights = model.partition("=")
            spec = replace(self.problem, model=name, data=data, weights=weights if equals else None, seed=seed)
            stem = f"{_word(name)}-{_word(data)}-{_word(method)}-{goal}-s{seed}"
            names[stem] += 1  # two files of one name in different folders
            unique = stem if names[stem] == 1 else f"{stem}-{names[stem]}"
            shown = (methods[method], models[model], sets[data])
            found.append(Cell(unique, spec, goal.asked_of(self.recipes[method]), goal, shown, stages))
        return found

    def to_json(self) -> dict[str, Any]:
        """Plain values only."""
        return as_table(self)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> CompareSettings:
        """What `to_json` wrote; raises UserError for what it did not."""
        known = {item.name for item in fields(cls)}
        if not known <= set(content):
            raise UserError("this comparison was written by another version; give its options anew, with another --out")
        return from_table(cls, {name: content[name] for name in known}, "the settings")


def brief(texts: Sequence[str]) -> dict[str, str]:
    """Short names of networks, data sets or methods, or the whole text where two would be the same.

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
