"""`rlprune prune` and `rlprune methods`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from rlprune.agents.commands.options import Run, Section, check_resumed, command_line, parse, value_of
from rlprune.agents.controllers.registry import RULES, rule_class
from rlprune.agents.runs.recipe import AGENT, PHASES, Recipe
from rlprune.agents.runs.recipes import RECIPES, get_recipe, list_recipes
from rlprune.errors import UserError, check_known, reading
from rlprune.importing import print_json
from rlprune.notices import tell
from rlprune.record import RunFolder, free_folder, newest_unfinished
from rlprune.spec import ProblemSpec
from rlprune.training.settings import TrainSettings

COMMON = {"model", "data", "weights", "task", "normalise", "size", "channels", "seed", "device", "method", "recipe",
          "published", "tolerance", "budget", "epochs", "minutes", "skip", "round_to", "lr", "out", "resume", "quiet",
          "json"}  # fmt: skip
NOT_OPTIONS = ("options", "method", "summary", "published", *PHASES)


@dataclass(frozen=True)
class What:
    """What is played.

    Attributes:
        method: Method of `rlprune methods`; all other values come from its recipe unless given.
        recipe: A recipe of your own in place of a method: a YAML file (`rlprune methods NAME --yaml` prints one).
        published: Play the paper's own schedule; unless given, one budget of epochs seeks the tolerance.
        lr: Learning rate of all training.
        batch_size: Images a step in all training.
        amp: Mixed precision (bfloat16) in all training: on, off, or auto.
    """

    method: str = "prc"
    recipe: str | None = None
    published: bool = False
    lr: float | None = None
    batch_size: int | None = None
    amp: bool | str | None = None


def prune(argv: Sequence[str], about: str, examples: str) -> int:
    """Prune a network."""
    recipe, spec = recorded(argv) or (_start(argv), ProblemSpec())
    sections = [
        Section(ProblemSpec, default=spec),
        Section(What, default=What(method=recipe.method, published=recipe.published)),
        *recipe_sections(recipe, argv),
        Section(Run),
    ]
    given = parse("prune", sections, argv, common=COMMON, about=about, examples=examples)
    if given["budget"] is not None and given["budget"] != recipe.budget and value_of(argv, "--tolerance") is None:
        given["tolerance"] = None  # the target alone is the goal
    return run_prune(changed(recipe, given), spec_of(given), given)


def run_prune(recipe: Recipe, spec: ProblemSpec, given: dict[str, Any]) -> int:
    """Build the problem, prune it into a folder, and say what came of it."""
    out, resume = given["out"], given["resume"]
    if out is None and resume:
        out = newest_unfinished(Path("runs"))
    from rich.console import Console  # from here on it may take its time

    from rlprune.agents.runs.describing import default_name
    from rlprune.agents.runs.prune import prune_problem
    from rlprune.report.live import LiveRun
    from rlprune.report.summary import near_chance, print_summary

    problem = spec.build()
    hint = near_chance(problem.baseline.metric, problem.baseline.value, len(problem.data.classes))
    if hint and spec.weights and not resume:
        tell(hint)
    folder = RunFolder(out or free_folder("runs", default_name(problem, recipe)))
    with LiveRun(recipe.tolerance, quiet=given["quiet"]) as live:
        live.work("starting")
        result = prune_problem(problem, recipe, folder=folder, command=command_line(), resume=resume, watcher=live)
    if given["json"]:
        print_json(result.record)
    elif not given["quiet"]:
        print_summary(result.record, Console())
        print(f"Written to {folder.path}")
    return 0


def recipe_sections(recipe: Recipe, argv: Sequence[str] = ()) -> list[Section]:
    """The options of a recipe: its own, its controller's behind the controller's name, and its phases'."""
    controller = value_of(argv, "--controller") or recipe.controller
    found = [Section(Recipe, default=recipe, skip=NOT_OPTIONS)]
    if not controller.startswith(AGENT):
        rule = rule_class(controller)
        options = recipe.options if controller == recipe.controller else {}
        found.append(Section(rule, controller, rule(**options)))
    return [*found, *(Section(TrainSettings, phase, getattr(recipe, phase)) for phase in PHASES)]


def changed(recipe: Recipe, given: dict[str, Any]) -> Recipe:
    """The recipe with the values that were given."""
    own = {item.name for item in fields(Recipe)} - set(NOT_OPTIONS)
    values = {name: value for name, value in given.items() if name in own}
    training = {name: given[name] for name in ("lr", "batch_size", "amp") if given.get(name) is not None}
    for phase in PHASES:  # what was given of a phase itself counts more than what is for all
        before = getattr(recipe, phase)
        values[phase] = {name: value for name, value in given[phase].items() if value != getattr(before, name)}
    controller = values["controller"]
    options = given.get(controller.replace("-", "_"), {})
    if controller != recipe.controller:
        recipe = replace(recipe, controller=controller, options={})
    return recipe.change(**{**values, **training, "options": options})


def spec_of(given: dict[str, Any]) -> ProblemSpec:
    """The problem that was given."""
    return ProblemSpec(**{item.name: given[item.name] for item in fields(ProblemSpec) if item.name in given})


def _start(argv: Sequence[str]) -> Recipe:
    """The recipe that the defaults come from."""
    file, method = value_of(argv, "--recipe"), value_of(argv, "--method")
    if file is not None and method is not None:
        raise UserError("--method and --recipe are both given; choose one of them")
    for text in argv:  # an option of a controller that does not run
        name = text.removeprefix("--").partition(".")[0] if text.startswith("--") and "." in text else ""
        running = value_of(argv, "--controller") or (
            RECIPES[method or "prc"].controller if method in (None, *RECIPES) else ""
        )
        if name in RULES and name != running and file is None:
            raise UserError(
                f"{text.partition('=')[0]} is an option of {name!r}, and this run's controller is {running!r}"
            )
    return get_recipe(file or method or "prc", published="--published" in argv)


def recorded(argv: Sequence[str]) -> tuple[Recipe, ProblemSpec] | None:
    """What the run to go on with was started with."""
    if "--resume" not in argv:
        return None
    out = value_of(argv, "--out")
    path = Path(out) if out else newest_unfinished(Path("runs"))
    if path is None or not RunFolder(path).exists():
        return None
    settings = RunFolder(path).read()["settings"]
    if "controller" not in settings or settings.get("problem") is None:
        raise UserError(f"{path} holds another kind of run, not a pruning by command; name the run with --out")
    with reading(RunFolder(path).record_file, "the record of a run"):
        recipe = Recipe.from_json({name: value for name, value in settings.items() if name != "problem"})
        spec = ProblemSpec.from_json(settings["problem"])
    check_resumed(RunFolder(path).record_file, [spec], argv)
    return recipe, spec


@dataclass(frozen=True)
class Listing:
    """How methods are shown.

    Attributes:
        published: The paper's own schedule.
        yaml: Print a recipe to start from, for --recipe.
        json: Print JSON.
    """

    published: bool = False
    yaml: bool = False
    json: bool = False


def methods(argv: Sequence[str], about: str, examples: str) -> int:
    """List the methods, or show one."""
    from rich.console import Console

    from rlprune.report.methods import print_constants, print_methods

    name = argv[0] if argv and not argv[0].startswith("-") else None
    given = parse("methods", [Section(Listing)], argv[1:] if name else argv, about=about, examples=examples)
    if name is None and (given["yaml"] or given["published"]):
        raise UserError("--yaml and --published are of one method; name it, as in `rlprune methods prc --yaml`")
    if name is None:
        summaries = {name: RECIPES[name].summary for name in list_recipes()}
        print_json(summaries) if given["json"] else print_methods(summaries, Console())
        return 0
    check_known("method", name, RECIPES)
    recipe = get_recipe(name, published=given["published"])
    if given["yaml"]:
        print(recipe.to_yaml(), end="")
        return 0
    found: dict[str, Any] = {}
    for section in recipe_sections(recipe):
        prefix = f"--{section.name}." if section.name else "--"
        for option, _, default, _ in section.fields():
            value = list(default) if isinstance(default, tuple) else default
            found[prefix + option.replace("_", "-")] = value
    if given["json"]:
        print_json(found)
    else:
        print_constants(name, recipe.summary, found, Console())
    return 0
