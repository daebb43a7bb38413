"""The subcommands that train a controller agent and run one on another network; `rlprune.cli` looks them up."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, TextColumn
from rlprune.agents.runs.pruning import prune
from rlprune.agents.runs.settings import PruneSettings

from rlprune.agents.commands.options import (
    console,
    field_options,
    given_fields,
    problem_options,
    problem_spec,
    run_options,
)
from rlprune.agents.commands.prune import given_rule_options, rule_options
from rlprune.agents.controllers.base import AGENT, RULES
from rlprune.agents.rl import assets
from rlprune.agents.runs.recipes import METHODS
from rlprune.envs.registration import MIXED
from rlprune.errors import UserError
from rlprune.files import read_json
from rlprune.record import RunFolder, free_folder, run_name, subject
from rlprune.recovery import TrainSettings
from rlprune.report.live import Live, LiveRun, duration
from rlprune.report.summary import print_summary
from rlprune.spec import ProblemSpec

if TYPE_CHECKING:
    from rlprune.agents.rl.settings import AgentSettings

GAME: Mapping[str, Any] = {"criterion": "l1", "recovery": "lsq+bn-delta", "max_rate": 0.9, "skip": []}
"""The rules an agent is trained by, unless told otherwise; `episode` takes them from the agent's card."""

FREE = 1.0  # the tolerance of a game in which the budget alone is the goal, as in `prune --method amc-rules`
LEVELS = 5  # values that a range A:B stands for
PLACE = ("root", "device", "control_from", "control_size", "calibration_size", "keep", "min_channels", "round_to")


# --- train-agent ----------------------------------------------------------------------------------------------------


def configure_train_agent(parser: argparse.ArgumentParser) -> None:
    """Options of `rlprune train-agent`."""
    from rlprune.agents.rl.settings import ALGORITHMS, AgentSettings

    group = parser.add_argument_group("agent")
    names = ", ".join(ALGORITHMS)
    group.add_argument("--algo", dest="algorithm", metavar="NAME", help=f"{names} (default: ppo)")
    field_options(group, AgentSettings, skip=("algorithm", "env", "seed", "device"))
    group.add_argument("--agent-device", metavar="NAME", help="where the agent's own network is (default: cpu)")
    group.add_argument(
        "--set", action="append", metavar="NAME=VALUE", help="a change to the preset, as in n_steps=64; repeatable"
    )
    group = parser.add_argument_group("what it is trained on; an episode draws network, budget and tolerance anew")
    group.add_argument("--models", type=_models, metavar="LIST", help="NAME or NAME=WEIGHTS, with commas between them")
    form = f"A,B,C or a range A:B ({LEVELS} even steps) or A:B:STEPS"
    group.add_argument(
        "--budget", type=_levels, metavar="LIST", help=f"fractions of the MACs to keep: {form} (default: 0.3:0.7)"
    )
    group.add_argument(
        "--tolerance",
        type=_levels,
        metavar="LIST",
        help=f"drops allowed: {form} (default: the budget alone is the goal)",
    )
    field_options(group, ProblemSpec, skip=("model", "weights", "task", "seed", "keep"))
    group.add_argument("--keep", action="append", metavar="PATTERN", help="never prune layers of this name; repeatable")
    group = parser.add_argument_group("the rules of the game")
    group.add_argument("--criterion", metavar="NAME", help=f"ranking of the filters (default: {GAME['criterion']})")
    group.add_argument("--recovery", metavar="NAMES", help=f"repairs, joined by + (default: {GAME['recovery']})")
    group.add_argument("--max-rate", type=float, metavar="X", help=f"most of a group (default: {GAME['max_rate']})")
    group.add_argument("--skip", type=_names, metavar="LIST", help="kinds of groups that stay whole, such as residual")
    group.add_argument(
        "--reward", metavar="NAME", help="what an episode pays (default: gain, over the uniform schedule)"
    )
    run_options(parser)
    parser.add_argument("--seed", type=int, metavar="N", help="seed of everything random (default: 0)")


def run_train_agent(args: argparse.Namespace) -> int:
    """Train an agent."""
    from rlprune.agents.rl.settings import AgentSettings
    from rlprune.agents.rl.training import AGENT as FILE
    from rlprune.agents.rl.training import longest_episode, train

    resume, start = hasattr(args, "resume"), AgentSettings(env=MIXED)
    if resume and not hasattr(args, "out"):
        raise UserError("--resume needs the folder of the training: name it with --out")
    if resume and (Path(args.out) / "settings.json").exists():
        start = _recorded(Path(args.out))
    settings = _agent_settings(args, start)
    words = [Path(problem["model"]).stem for problem in settings.env_kwargs["problems"]]
    name = run_name("agent", settings.algorithm, *words, f"s{settings.seed}")
    folder = Path(args.out) if hasattr(args, "out") else free_folder("runs", name)
    quiet = hasattr(args, "quiet")
    total = settings.timesteps or (settings.episodes or 0) * longest_episode(settings)  # finds what cannot be, too
    with AgentProgress(settings, total, console(stderr=True), quiet=quiet) as progress:
        command = shlex.join(["rlprune", *sys.argv[1:]])
        agent = train(settings, folder, resume=resume, command=command, on_episode=progress.episode)
    if hasattr(args, "json"):
        print(json.dumps({**agent.card, "file": str(folder / FILE)}, indent=2))
    elif not quiet:
        _print_metrics(agent.card, settings)
        print(f"Written to {folder / FILE}; run it with `rlprune episode --agent {folder / FILE} --model NEW`")
    return 0


def _recorded(folder: Path) -> AgentSettings:
    """The settings that a training was started with."""
    from rlprune.agents.rl.settings import AgentSettings

    try:
        settings = AgentSettings(**read_json(folder / "settings.json"))
    except TypeError:
        raise UserError(f"{folder / 'settings.json'} is not of a training of an agent") from None
    if settings.env != MIXED:
        raise UserError(f"{folder} holds a training in {settings.env}; go on with it by rlprune.agents.train")
    return settings


def _agent_settings(args: argparse.Namespace, start: AgentSettings) -> AgentSettings:
    """The settings of `start`, changed by the options that were given."""
    from rlprune.agents.rl.settings import AgentSettings

    given = given_fields(args, AgentSettings)
    given.pop("device", None)  # that of the networks
    if hasattr(args, "agent_device"):
        given["device"] = args.agent_device
    if "timesteps" in given and "episodes" not in given:
        given["episodes"] = None
    if hasattr(args, "set"):
        given["hyperparameters"] = {**start.hyperparameters, **_changes(args.set)}
    return replace(start, **given, env_kwargs=_env_kwargs(args, start.env_kwargs))


def _env_kwargs(args: argparse.Namespace, start: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of `MixedPruningEnv`, in plain values: those of `start`, changed by the options that were given."""
    common = dict(start.get("common") or {"tolerance": FREE, **{key: GAME[key] for key in GAME if key != "max_rate"}})
    kwargs = {
        "problems": [{"model": "lenet5"}],
        "budgets": _levels("0.3:0.7"),
        "tolerances": None,
        "max_rate": GAME["max_rate"],
        **start,
        "common": common,
    }
    for option, name in (("models", "problems"), ("budget", "budgets"), ("tolerance", "tolerances")):
        if hasattr(args, option):
            kwargs[name] = getattr(args, option)
    for name in ("max_rate", "reward", "seed"):
        if hasattr(args, name):
            kwargs[name] = getattr(args, name)
    common |= {
        name: getattr(args, name) for name in (*PLACE, "data", "criterion", "recovery", "skip") if hasattr(args, name)
    }
    return kwargs


class AgentProgress(Live):
    """Shows how a training gets on: a bar with the time left on a terminal, ten lines elsewhere.

    Args:
        settings: Of the training.
        total: Time steps that it takes at most.
        console: Where to print.
        quiet: Show nothing.
    """

    def __init__(self, settings: AgentSettings, total: int, console: Console, *, quiet: bool = False) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(bar_width=24), TextColumn("{task.fields[note]}"))
        super().__init__(*columns, console=console, quiet=quiet)
        self.settings, self.total = settings, total
        self._task = self._progress.add_task(f"training {settings.algorithm}", total=1.0, note="starting")
        self._started, self._before = time.monotonic(), -1.0
        self._best, self._told = -float("inf"), 0.0

    def episode(self, count: int, line: dict[str, Any]) -> None:
        """An episode has ended."""
        done = line["timesteps"] / max(self.total, 1)
        if self.settings.episodes is not None:
            done = max(done, count / self.settings.episodes)
        done = min(done, 1.0)
        now = time.monotonic()
        if self._before < 0:  # a resumed training starts late, so the clock starts with the first episode seen
            self._before, self._started = done, now
        each = (now - self._started) / (done - self._before) if done > self._before else None
        left = "" if each is None else f", about {duration(each * (1.0 - done))} left"
        self._best = max(self._best, line["reward"])
        note = f"episode {count}, reward {line['reward']:+.3f}, best {self._best:+.3f}{left}"
        self._progress.update(self._task, completed=done, note=note)
        if self.lines and (done >= self._told + 0.1 or done >= 1.0 > self._told):
            self._told = done
            self.console.print(f"{100 * done:3.0f} %  {note}", highlight=False)


def _print_metrics(card: Mapping[str, Any], settings: AgentSettings) -> None:
    """The agent's deterministic schedules beside the uniform ones."""
    problems = settings.env_kwargs["problems"]
    print(f"{card['training']['episodes']} episodes; control scores in %, without training:")
    print(f"{'network':20} {'MACs kept':>9} {'agent':>7} {'uniform':>7}")
    for line in card["metrics"]["deterministic"]:
        scores = f"{100 * line['agent']['score']:7.2f} {100 * line['uniform']['score']:7.2f}"
        print(f"{problems[line['problem']]['model']:20} {100 * line['macs_share']:7.1f} % {scores}")


# --- episode --------------------------------------------------------------------------------------------------------


def configure_episode(parser: argparse.ArgumentParser) -> None:
    """Options of `rlprune episode`."""
    recipe = METHODS.get("amc-rules").settings
    group = parser.add_argument_group("controller, one of the two")
    known = assets.names()
    built_in = f"; built in: {', '.join(known)} (default: {known[0]})" if known else ""
    group.add_argument(
        "--agent", metavar="FILE|NAME", help=f"zip of a trained agent, with its card beside it, or a name{built_in}"
    )
    group.add_argument("--controller", metavar="RULE", help=", ".join(RULES.names()))
    field_options(group, PruneSettings, skip=[n for n in PruneSettings.__dataclass_fields__ if n != "samples"])
    problem_options(parser)
    group = parser.add_argument_group("goal")
    group.add_argument(
        "--budget", "--target-macs", dest="target_macs", type=float, metavar="X",
        help=f"fraction of the MACs to keep (default: {recipe.target_macs})",
    )  # fmt: skip
    group.add_argument(
        "--tolerance", type=float, metavar="X",
        help="largest drop of the control score; what leaves it is tried again with less removed (default: any drop)",
    )  # fmt: skip
    group.add_argument("--attempts", type=int, metavar="N", help=f"how often to try (default: {recipe.attempts})")
    group = parser.add_argument_group("the rules of the game (default: those the agent was trained by)")
    fields = ("criterion", "recovery", "max_rate", "skip")
    others = [name for name in PruneSettings.__dataclass_fields__ if name not in fields]
    field_options(group, PruneSettings, skip=others, defaults=replace(recipe, **_game({})))
    group = parser.add_argument_group("fine-tuning", "Training of the pruned network; the better of both is kept.")
    tuning = replace(recipe.finetune, epochs=0.0)
    field_options(group, TrainSettings, prefix="finetune-", defaults=tuning)
    run_options(parser)
    rule_options(parser)


def run_episode(args: argparse.Namespace) -> int:
    """Run a controller once on a network, and write the run folder that `prune` writes."""
    resume, quiet = hasattr(args, "resume"), hasattr(args, "quiet")
    if resume and not hasattr(args, "out"):
        raise UserError("--resume needs the folder of the run: name it with --out")
    if resume and RunFolder(args.out).exists():
        recorded = RunFolder(args.out).read()["settings"]
        if "problem" not in recorded:
            raise UserError(f"{args.out} holds another kind of run; name the run with --out")
        settings = PruneSettings.from_json(recorded)
        if _episode_settings(args, settings) != settings:
            raise UserError(f"the run in {args.out} was started with other settings; --resume takes none of its own")
    else:
        settings = _episode_settings(args, None)
    folder = RunFolder(args.out if hasattr(args, "out") else free_folder("runs", _name(settings)))
    with LiveRun(settings.tolerance, console(stderr=True), quiet=quiet) as live:
        command = shlex.join(["rlprune", *sys.argv[1:]])
        record = prune(settings, folder, command=command, resume=resume, watcher=live)
    if hasattr(args, "json"):
        print(json.dumps(record, indent=2))
    elif not quiet:
        print_summary(record, console())
        print(f"Written to {folder.path}")
    return 0


def _episode_settings(args: argparse.Namespace, start: PruneSettings | None) -> PruneSettings:
    """The settings of `start` (None: of AMC's rules, as the agent knows them), changed by the options given."""
    if hasattr(args, "agent") and hasattr(args, "controller"):
        raise UserError("--agent and --controller are both given; choose one of them")
    agent, known = getattr(args, "agent", None), assets.names()
    if agent is None and not hasattr(args, "controller") and start is None:
        if not known:
            raise UserError(
                "no controller is given; name a trained agent with --agent FILE, or a rule with --controller"
            )
        agent = known[0]
    controller = f"{AGENT}{agent}" if agent is not None else getattr(args, "controller", None)
    if start is None:
        recipe = METHODS.get("amc-rules").settings
        start = replace(
            recipe,
            **_game(_card_rules(agent) if agent is not None else {}),
            controller=str(controller),
            controller_options={},
            tolerance=FREE,
            finetune=replace(recipe.finetune, epochs=0.0),
        )
    given = given_fields(args, PruneSettings)
    given["controller"] = controller = controller or start.controller
    options = dict(start.controller_options) if controller == start.controller else {}
    options |= given_rule_options(args, controller)
    finetune = replace(start.finetune, **given_fields(args, TrainSettings, "finetune-"))
    settings = replace(
        start, **given, problem=problem_spec(args, start.problem), controller_options=options, finetune=finetune
    )
    # The environment tells the agent of the tolerance where nothing but the pruning decides whether it is kept.
    free = settings.tolerance >= FREE or finetune.epochs > 0
    return replace(settings, check="end" if free else "round")


def _game(card: Mapping[str, Any]) -> dict[str, Any]:
    """The rules of the game as settings of a run."""
    rules = {**GAME, **card}
    return {**rules, "skip": tuple(rules["skip"])}


def _card_rules(file: str) -> dict[str, Any]:
    """The rules by which an agent was trained, as far as its card tells."""
    from rlprune.agents.rl.sb3 import load_agent

    kwargs = (load_agent(file).card.get("env") or {}).get("kwargs") or {}
    kwargs = {**kwargs, **(kwargs.get("common") or {})}
    return {name: kwargs[name] for name in GAME if name in kwargs}


def _name(settings: PruneSettings) -> str:
    """What the run folder is called."""
    problem, who = settings.problem, settings.controller
    stem = Path(who.removeprefix(AGENT))
    played = stem.parent.name or stem.stem if who.startswith(AGENT) else who
    words = subject(problem.model, problem.data)
    return run_name(*words, played, f"b{settings.target_macs:g}", f"s{settings.seed}")


# --- reading options ------------------------------------------------------------------------------------------------


def _names(text: str) -> list[str]:
    return [] if text == "none" else [part.strip() for part in text.split(",") if part.strip()]


def _models(text: str) -> list[dict[str, str]]:
    """`a,b=b.pt` -> arguments of two environments."""
    pairs = [name.partition("=")[::2] for name in _names(text)]
    return [{"model": model, "weights": weights} if weights else {"model": model} for model, weights in pairs]


def _levels(text: str) -> list[float]:
    """`0.3,0.5` as it is; `0.3:0.7` and `0.3:0.7:9` in even steps, both ends with it."""
    try:
        if ":" not in text:
            values = [float(part) for part in _names(text)]
        else:
            low, high, *steps = text.split(":")
            values = [
                round(float(v), 6) for v in np.linspace(float(low), float(high), int(*steps) if steps else LEVELS)
            ]
        if not values or not all(0.0 <= value <= 1.0 for value in values):
            raise ValueError
    except (TypeError, ValueError):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a list A,B,C or a range A:B or A:B:STEPS of numbers in [0, 1]"
        ) from None
    return values


def _changes(texts: list[str]) -> dict[str, Any]:
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
