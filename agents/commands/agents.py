"""`rlprune train-agent` and `rlprune agents`."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from rlprune.agents.commands.options import Json, Run, Section, check_resumed, command_line, folder_to_resume, parse
from rlprune.agents.rl.assets import agent_file, names
from rlprune.agents.rl.settings import AgentSettings
from rlprune.agents.runs.population import DRAWN, expanded
from rlprune.envs.registration import MIXED
from rlprune.errors import UserError, reading, unknown_name
from rlprune.files import read_json
from rlprune.importing import print_json
from rlprune.record import free_folder, run_name
from rlprune.spec import ProblemSpec
from rlprune.typed import check_table, from_table

GAME: Mapping[str, Any] = {"criterion": "l1", "recovery": "lsq+bn-delta", "max_rate": 0.9, "skip": ()}
"""The rules an agent is trained by, unless told otherwise; `episode` takes them from the agent's card."""

FREE = 1.0  # the tolerance of a game in which the budget alone is the goal
LEVELS = 5  # values that a range A:B stands for


@dataclass(frozen=True)
class Lessons:
    """What an agent is trained on; an episode draws network, budget and tolerance anew.

    Attributes:
        models: Networks, NAME or NAME=WEIGHTS, or population:FOLDER for all that `train-population` has trained there.
        leave_out: Families of drawn networks that are not trained on; the card says how the agent does there.
        watch: Families that are not trained on either, but looked at during the training: the agent that does best
            there is kept, and `--patience` ends the training.
        budgets: Fractions of the MACs to keep, one by one or as a range: A:B (five even steps) or A:B:STEPS.
        counted: What a budget is a fraction of: `macs`, `parameters`, or both in turn.
        tolerances: Drops allowed, likewise; none: the budget alone is the goal.
        criterion: Ranking of the filters.
        recovery: Repairs after each removal, joined by +.
        max_rate: Most of a group that goes.
        skip: Kinds of groups that stay whole, such as residual.
        advice: What action 0 plays, where it is not a uniform rate, and what is seen of a group: the rule `error` or
            `response`.
        reward: What an episode pays; `gain` is over the uniform schedule, `gain_over_error` over the rule `error`.
        cache: File that the scores are kept in, for several trainings to share; None keeps them with the agent.
        agent_device: Where the agent's own network is.
        set: A change to the preset, as in n_steps=64; repeatable.
    """

    models: tuple[str, ...] = ("lenet5",)
    leave_out: tuple[str, ...] = ()
    watch: tuple[str, ...] = ()
    budgets: tuple[str, ...] = ("0.3:0.7",)
    counted: tuple[str, ...] = ("macs",)
    tolerances: tuple[str, ...] = ()
    criterion: str = GAME["criterion"]
    recovery: str = GAME["recovery"]
    max_rate: float = GAME["max_rate"]
    skip: tuple[str, ...] = GAME["skip"]
    advice: str = "error"
    reward: str = "gain"
    cache: str | None = None
    agent_device: str = "cpu"
    set: list[str] = field(default_factory=list)  # a list, since a comma in a value separates nothing


COMMON_LESSONS = {"models", "leave_out", "watch", "data", "budgets", "counted", "tolerances", "algorithm",
                  "episodes", "timesteps", "workers", "seed",
                  "device", "recovery", "max_rate", "skip", "reward", "set", "out", "resume", "quiet",
                  "json"}  # fmt: skip
SHARED = frozenset({"criterion", "recovery", "advice", "skip", "cache"})  # rules of all networks
NOT_LESSONS = ("env", "env_kwargs", "hyperparameters", "seed", "device", "watched", "left_out")


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
    every = [*settings.env_kwargs["problems"], *settings.watched, *settings.left_out]
    names, shared = ("model", "task", "data"), settings.env_kwargs["common"]
    told = [
        {name: one[name] for name in names if one.get(name) is not None} for one in ({**shared, **p} for p in every)
    ]
    return [ProblemSpec.from_json(one) for one in told]


def _lessons(start: AgentSettings) -> Lessons:
    """Settings as the options that stand for them."""
    kwargs, common = start.env_kwargs, start.env_kwargs["common"]
    models = tuple("=".join(problem[name] for name in ("model", "weights") if name in problem)
                   for problem in (*kwargs["problems"], *start.watched, *start.left_out))  # fmt: skip
    apart = {"watch": start.watched, "leave_out": start.left_out}
    families: dict[str, Any] = {name: tuple(dict.fromkeys(map(_family, found))) for name, found in apart.items()}
    lists: dict[str, Any] = {name: tuple(map(str, kwargs[name] or ())) for name in ("budgets", "tolerances")}
    rules: dict[str, Any] = {name: common[name] for name in SHARED - {"skip"} if name in common}
    return Lessons(models=models, **families, **lists, **rules, max_rate=kwargs["max_rate"],
                   counted=tuple(kwargs.get("counted", ("macs",))), skip=tuple(common.get("skip", ())),
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
    for name in ("max_rate", "reward", "seed", "counted"):
        value = given.get(name)
        kwargs |= {name: list(value) if isinstance(value, tuple) else value} if name in given else {}
    if "models" in given:
        pairs = [model.partition("=")[::2] for model in expanded(given["models"])]
        problems = [{"model": name, **({"weights": file} if file else {})} for name, file in pairs]
        apart = {place: _apart(problems, name, given.get(name, ())) for name, place in APART.items()}
        kwargs["problems"] = [problem for problem in problems if all(problem not in found for found in apart.values())]
        if problems and not kwargs["problems"]:
            raise UserError("no network is left to train on; take fewer families out by --leave-out and --watch")
        changes |= apart
    elif {"leave_out", "watch"} & set(given):
        raise UserError("--leave-out and --watch take families out of --models; give those with them")
    for name in ("budgets", "tolerances"):
        if name in given:
            kwargs[name] = levels(name, given[name]) if given[name] else None
    shared = {item.name for item in fields(ProblemSpec)} - {"seed"} | SHARED
    values = {name: given[name] for name in given if name in shared}
    kwargs["common"] |= {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}
    return replace(start, **changes, env_kwargs=kwargs)


APART = {"leave_out": "left_out", "watch": "watched"}
"""Options that take families out of the training, and the settings that they go to."""


def _family(problem: Mapping[str, Any]) -> str:
    """The family of a network from the grammar; of any other its specification."""
    model = str(problem["model"])
    return model.removeprefix(DRAWN).partition("-")[0] if model.startswith(DRAWN) else model


def _apart(problems: Sequence[dict[str, Any]], name: str, families: Sequence[str]) -> tuple[dict[str, Any], ...]:
    """The networks of some families; raises UserError for one of which there is none."""
    known = [_family(problem) for problem in problems]
    for family in families:
        if family not in known:
            raise unknown_name(f"family for --{name.replace('_', '-')}", family, sorted({*known}))
    return tuple(problem for problem, family in zip(problems, known, strict=True) if family in families)


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
    """The agent's deterministic schedules beside the rules'."""
    print(f"{card['training']['episodes']} episodes; control scores in %, without training:")
    print(f"{'network':20} {'MACs kept':>9} {'agent':>7} {'error':>7} {'uniform':>7}")
    for name, problems in (("deterministic", settings.env_kwargs["problems"]), ("left_out", settings.left_out)):
        for line in card["metrics"].get(name, []):
            scores = " ".join(f"{100 * line[who]['score']:7.2f}" for who in ("agent", "error", "uniform"))
            model = problems[line["problem"]]["model"] + (" (left out)" if name == "left_out" else "")
            print(f"{model:20} {100 * line['macs_share']:7.1f} % {scores}")


# --- agents ---------------------------------------------------------------------------------------------------------


def agents(argv: Sequence[str], about: str, examples: str) -> int:
    """List agents by what their cards say; nothing of an agent is run."""
    files = list(itertools.takewhile(lambda text: not text.startswith("-"), argv))
    given = parse("agents", [Section(Json)], argv[len(files) :], about=about, examples=examples)
    from rlprune.agents.rl.sb3 import read_card

    cards = {name: read_card(agent_file(name)) for name in files or names()}
    found = {name: _known(card) for name, card in cards.items()}
    if given["json"]:
        print_json(found)
        return 0
    for name, known in found.items():
        print(name)
        for what, value in known.items():
            print(f"  {what.replace('_', ' '):16} {', '.join(map(str, value)) if isinstance(value, list) else value}")
    return 0


def _known(card: Mapping[str, Any]) -> dict[str, Any]:
    """What an agent knows, as its card says."""
    kwargs = (card.get("env") or {}).get("kwargs") or {}
    training, metrics = card.get("training") or {}, card.get("metrics") or {}
    rules = {**kwargs, **(kwargs.get("common") or {})}
    rule = training.get("advice", "error") if card.get("around") == "advice" else "uniform"
    found: dict[str, Any] = {
        "algorithm": card["algorithm"],
        "observation": f"{len(card['features'])} features",
        "trained_on": [problem["model"] for problem in kwargs.get("problems", []) if "model" in problem],
        "budgets": kwargs.get("budgets") or ([kwargs["budget"]] if kwargs.get("budget") else []),
        "counted": kwargs.get("counted", ["macs"]),
        "rules": [f"{name} {rules[name]}" for name in ("criterion", "recovery", "skip") if name in rules],
        "episodes": training.get("episodes", "unknown"),
        "elsewhere": f"the rule {rule}",
    }
    for name in ("deterministic", "left_out"):
        lines = [line for line in metrics.get(name, []) if "error" in line]
        if lines:
            over = [100 * (line["agent"]["score"] - line["error"]["score"]) for line in lines]
            place = "trained on" if name == "deterministic" else "left out"
            found[f"over_error_{place.replace(' ', '_')}"] = f"{sum(over) / len(over):+.2f} points ({len(over)} goals)"
    return {name: value for name, value in found.items() if value != []}
