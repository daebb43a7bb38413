"""`rlprune train-agent` and `rlprune episode`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from rlprune.agents.commands.options import (
    Run,
    Section,
    check_resumed,
    command_line,
    folder_to_resume,
    parse,
    value_of,
)
from rlprune.agents.commands.prune import What, changed, recipe_sections, recorded, run_prune, spec_of
from rlprune.agents.rl.assets import agent_file, names
from rlprune.agents.rl.settings import AgentSettings
from rlprune.agents.runs.population import expanded
from rlprune.agents.runs.recipe import AGENT, Recipe
from rlprune.agents.runs.recipes import CYCLE
from rlprune.envs.registration import MIXED
from rlprune.errors import UserError, reading
from rlprune.files import read_json
from rlprune.importing import print_json
from rlprune.record import free_folder, run_name
from rlprune.spec import ProblemSpec
from rlprune.training.settings import TrainSettings
from rlprune.typed import check_table, from_table

GAME: Mapping[str, Any] = {"criterion": "l1", "recovery": "lsq+bn-delta", "max_rate": 0.9, "skip": ()}
"""The rules an agent is trained by, unless told otherwise; `episode` takes them from the agent's card."""

FREE = 1.0  # the tolerance of a game in which the budget alone is the goal
LEVELS = 5  # values that a range A:B stands for


# --- train-agent ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Lessons:
    """What an agent is trained on; an episode draws network, budget and tolerance anew.

    Attributes:
        models: Networks, NAME or NAME=WEIGHTS, or population:FOLDER for all that `train-population` has trained there.
        budgets: Fractions of the MACs to keep, one by one or as a range: A:B (five even steps) or A:B:STEPS.
        tolerances: Drops allowed, likewise; none: the budget alone is the goal.
        criterion: Ranking of the filters.
        recovery: Repairs after each removal, joined by +.
        max_rate: Most of a group that goes.
        skip: Kinds of groups that stay whole, such as residual.
        reward: What an episode pays; `gain` is over the uniform schedule.
        agent_device: Where the agent's own network is.
        set: A change to the preset, as in n_steps=64; repeatable.
    """

    models: tuple[str, ...] = ("lenet5",)
    budgets: tuple[str, ...] = ("0.3:0.7",)
    tolerances: tuple[str, ...] = ()
    criterion: str = GAME["criterion"]
    recovery: str = GAME["recovery"]
    max_rate: float = GAME["max_rate"]
    skip: tuple[str, ...] = GAME["skip"]
    reward: str = "gain"
    agent_device: str = "cpu"
    set: list[str] = field(default_factory=list)  # a list, since a comma in a value separates nothing


COMMON_LESSONS = {"models", "data", "budgets", "tolerances", "algorithm", "episodes", "timesteps", "workers", "seed",
                  "device", "recovery", "max_rate", "skip", "reward", "set", "out", "resume", "quiet",
                  "json"}  # fmt: skip
NOT_LESSONS = ("env", "env_kwargs", "hyperparameters", "seed", "device")


def train_agent(argv: Sequence[str], about: str, examples: str) -> int:
    """Train an agent."""
    folder, start = folder_to_resume(argv), AgentSettings(env=MIXED, env_kwargs=_fresh())
    if folder is not None and (folder / "settings.json").exists():
        start = _recorded(folder)
        check_resumed(folder / "settings.json", _problems(start), argv)
    kwargs = start.env_kwargs
    common = {**kwargs.get("common", {})}
    place = {item.name: common[item.name] for item in fields(ProblemSpec) if item.name in common}
    sections = [
        Section(Lessons, default=_lessons(start)),
        Section(AgentSettings, default=start, skip=NOT_LESSONS),
        Section(ProblemSpec, default=ProblemSpec.from_json({**place, "seed": start.seed}), skip=("model", "weights")),
        Section(Run),
    ]
    given = parse("train-agent", sections, argv, common=COMMON_LESSONS, about=about, examples=examples)
    before = {name: default for section in sections for name, _, default, _ in section.fields()}
    settings = _changed(start, {name: value for name, value in given.items() if value != before.get(name)})
    stems = [Path(problem["model"]).stem for problem in settings.env_kwargs["problems"]]
    stems = stems if len(stems) < 4 else [f"{len(stems)}-networks"]
    name = run_name("agent", settings.algorithm, *stems, f"s{settings.seed}")
    return _train(settings, Path(given["out"] or free_folder("runs", name)), given)


def _train(settings: AgentSettings, folder: Path, given: Mapping[str, Any]) -> int:
    """Train, and say what came of it."""
    from rlprune.agents.commands.progress import Tenths, episodes  # from here on it may take its time
    from rlprune.agents.rl.training import AGENT as FILE
    from rlprune.agents.rl.training import episode_lengths, train

    total = settings.timesteps or (settings.episodes or 0) * episode_lengths(settings)[1]  # finds what cannot be, too
    with Tenths(f"training {settings.algorithm}", quiet=given["quiet"]) as bar:
        told = episodes(bar, total, settings.episodes)
        agent = train(settings, folder, resume=given["resume"], command=command_line(), on_episode=told)
    if given["json"]:
        print_json({**agent.card, "file": str(folder / FILE)})
    elif not given["quiet"]:
        _print_metrics(agent.card, settings)
        print(f"Written to {folder / FILE}; run it with `rlprune episode --agent {folder / FILE} --model NEW`")
    return 0


def _fresh() -> dict[str, Any]:
    """Arguments of `MixedPruningEnv`, in plain values."""
    common = {"tolerance": FREE, "criterion": GAME["criterion"], "recovery": GAME["recovery"], "skip": []}
    problems, budgets = [{"model": "lenet5"}], levels("budgets", ["0.3:0.7"])
    return {"problems": problems, "budgets": budgets, "tolerances": None, "max_rate": GAME["max_rate"],
            "common": common}  # fmt: skip


def _recorded(folder: Path) -> AgentSettings:
    """The settings that a training was started with."""
    with reading(folder / "settings.json", "the settings of a training of an agent"):
        settings = from_table(AgentSettings, read_json(folder / "settings.json"), "the settings")
        if settings.env != MIXED:
            raise UserError(f"{folder} holds a training in {settings.env}; go on with it by rlprune.agents.train")
        check_table(Lessons, vars(_lessons(settings)), "the settings")  # whether it can be told in options
        _problems(settings)
    return settings


def _problems(settings: AgentSettings) -> list[ProblemSpec]:
    """What is trained on, as far as it says what is built."""
    shared = {"task": settings.env_kwargs["common"].get("task")}
    problems = [{**shared, **problem} for problem in settings.env_kwargs["problems"]]
    return [ProblemSpec.from_json({"model": one["model"], "task": one["task"]}) for one in problems]


def _lessons(start: AgentSettings) -> Lessons:
    """Settings as the options that stand for them."""
    kwargs, common = start.env_kwargs, start.env_kwargs["common"]
    models = tuple("=".join(problem[name] for name in ("model", "weights") if name in problem)
                   for problem in kwargs["problems"])  # fmt: skip
    lists: dict[str, Any] = {name: tuple(map(str, kwargs[name] or ())) for name in ("budgets", "tolerances")}
    rules: dict[str, Any] = {name: common[name] for name in ("criterion", "recovery") if name in common}
    return Lessons(models=models, **lists, **rules, max_rate=kwargs["max_rate"], skip=tuple(common.get("skip", ())),
                   reward=kwargs.get("reward", "gain"), agent_device=start.device)  # fmt: skip


def _changed(start: AgentSettings, given: Mapping[str, Any]) -> AgentSettings:
    """Settings with the values that differ from theirs."""
    own = {item.name for item in fields(AgentSettings)} - set(NOT_LESSONS)
    changes = {name: value for name, value in given.items() if name in own | {"seed"}}
    if "agent_device" in given:
        changes["device"] = given["agent_device"]
    if "timesteps" in given and "episodes" not in given:
        changes["episodes"] = None
    changes["hyperparameters"] = {**start.hyperparameters, **_presets(given.get("set", []))}
    kwargs = {**start.env_kwargs, "common": dict(start.env_kwargs["common"])}
    for name in ("max_rate", "reward", "seed"):
        kwargs |= {name: given[name]} if name in given else {}
    if "models" in given:
        pairs = [model.partition("=")[::2] for model in expanded(given["models"])]
        kwargs["problems"] = [{"model": name, **({"weights": file} if file else {})} for name, file in pairs]
    for name in ("budgets", "tolerances"):
        if name in given:
            kwargs[name] = levels(name, given[name]) if given[name] else None
    shared = {item.name for item in fields(ProblemSpec)} - {"seed"} | {"criterion", "recovery", "skip"}
    values = {name: given[name] for name in given if name in shared}
    kwargs["common"] |= {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}
    return replace(start, **changes, env_kwargs=kwargs)


def levels(name: str, texts: Sequence[str]) -> list[float]:
    """`0.3` as it is; `0.3:0.7` and `0.3:0.7:9` in even steps, both ends with it.

    >>> levels("budgets", ["0.3:0.7"]), levels("budgets", ["0.25", "0.1"])
    ([0.3, 0.4, 0.5, 0.6, 0.7], [0.25, 0.1])
    """
    found: list[float] = []
    for text in texts:
        low, *rest = text.split(":")
        try:
            high, steps = rest[0] if rest else low, int(rest[1]) if len(rest) > 1 else LEVELS if rest else 1
            values = [round(float(value), 6) for value in np.linspace(float(low), float(high), steps)]
            if not values or len(rest) > 2 or not all(0.0 <= value <= 1.0 for value in values):
                raise ValueError
        except ValueError:
            raise UserError(
                f"--{name} {text!r} is not a number in [0, 1], or a range A:B or A:B:STEPS of such numbers"
            ) from None
        found += values
    return found


def _presets(texts: Sequence[str]) -> dict[str, Any]:
    """`n_steps=64` -> {"n_steps": 64}; what is not JSON is text."""
    changes: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not (name and equals):
            raise UserError(f"--set is {text!r}; it must be NAME=VALUE, as in n_steps=64")
        try:
            changes[name] = json.loads(value)
        except json.JSONDecodeError:
            changes[name] = value
    return changes


def _print_metrics(card: Mapping[str, Any], settings: AgentSettings) -> None:
    """The agent's deterministic schedules beside the uniform ones."""
    problems = settings.env_kwargs["problems"]
    print(f"{card['training']['episodes']} episodes; control scores in %, without training:")
    print(f"{'network':20} {'MACs kept':>9} {'agent':>7} {'uniform':>7}")
    for line in card["metrics"]["deterministic"]:
        scores = f"{100 * line['agent']['score']:7.2f} {100 * line['uniform']['score']:7.2f}"
        print(f"{problems[line['problem']]['model']:20} {100 * line['macs_share']:7.1f} % {scores}")


# --- episode --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Player:
    """Who plays.

    Attributes:
        agent: Zip of a trained agent with its card beside it, or the name of one that comes with the package; unless a
            controller is given, the first of these.
        env_kwargs: What the environment of a plain Stable-Baselines3 script was made with, in JSON; writes the card.
    """

    agent: str | None = None
    env_kwargs: str | None = None


COMMON_EPISODE = {"model", "data", "weights", "seed", "device", "agent", "env_kwargs", "controller", "budget",
                  "tolerance", "epochs", "samples", "criterion", "recovery", "max_rate", "skip", "out", "resume",
                  "quiet", "json"}  # fmt: skip


def episode(argv: Sequence[str], about: str, examples: str) -> int:
    """Run a controller on a network, and write the run folder that `prune` writes.

    One round that meets a budget, without training, by the rules that the agent was trained by; where a tolerance or
    epochs are given, a run like any other with that controller, unless the best of some samples is asked for.
    """
    folder_to_resume(argv)
    recipe, spec = recorded(argv) or (_recipe(argv), ProblemSpec())
    sections = [
        Section(Player),
        Section(ProblemSpec, default=spec),
        *recipe_sections(recipe, argv),
        Section(What, skip=("method", "recipe", "published")),
        Section(Run),
    ]
    given = parse("episode", sections, argv, common=COMMON_EPISODE, about=about, examples=examples)
    if given["agent"] is not None:
        given["controller"] = f"{AGENT}{given['agent']}"
    return run_prune(changed(recipe, given), spec_of(given), given)


def _recipe(argv: Sequence[str]) -> Recipe:
    """The recipe that the defaults come from."""
    agent, controller = value_of(argv, "--agent"), value_of(argv, "--controller")
    if agent is not None and controller is not None:
        raise UserError("--agent and --controller are both given; choose one of them")
    if agent is None and controller is None:
        if not names():
            raise UserError(
                "no controller is given; name a trained agent with --agent FILE, or a rule with --controller"
            )
        agent = names()[0]
    controller = controller or f"{AGENT}{agent}"
    arguments = value_of(argv, "--env-kwargs")
    if arguments is not None:
        if not controller.startswith(AGENT):
            raise UserError(f"--env-kwargs is of an agent's training, and {controller} is a rule: leave it out")
        from rlprune.agents.rl.cards import write_card_of

        write_card_of(agent_file(controller.removeprefix(AGENT)), arguments)
    rules = _card_rules(controller.removeprefix(AGENT)) if controller.startswith(AGENT) else {}
    recipe = Recipe(controller=controller, method=controller.partition(":")[0], repair=CYCLE, **{**GAME, **rules})
    goes_on = any(value_of(argv, flag) is not None for flag in ("--tolerance", "--epochs"))
    if goes_on and value_of(argv, "--samples") is None:  # of samples, whole episodes are compared
        return replace(recipe, tolerance=FREE, epochs=0.0, finish=CYCLE)
    once: dict[str, Any] = {"published": True, "once": True, "check": "end", "finish": TrainSettings(epochs=0.0)}
    return replace(recipe, tolerance=FREE, budget=0.5, **once)


def _card_rules(file: str) -> dict[str, Any]:
    """The rules by which an agent was trained, as far as its card tells."""
    path = agent_file(file).with_suffix(".json")
    if not path.exists():
        return {}  # loading the agent says what is missing
    with reading(path, "the card of an agent"):
        card = read_json(path)
        kwargs = (card.get("env") or {}).get("kwargs") or {} if isinstance(card, dict) else {}
        kwargs = {**kwargs, **(kwargs.get("common") or {})}
        rules = {name: tuple(kwargs[name]) if name == "skip" else kwargs[name] for name in GAME if name in kwargs}
        check_table(Recipe, rules, "the rules")
    return rules
