"""The command line: `rlprune prune`, `evaluate`, `inspect`, `replay`, `export`, `compare`, `report`, `pareto`.

A user's mistake is one line on the error stream and exit status 2. Results go to standard output, progress to the
error stream, so that `--json` can be piped.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from rlprune.errors import UserError

if TYPE_CHECKING:
    from rlprune.agents import PruneSettings
    from rlprune.problem import ProblemSpec, PruningProblem


class _Parser(argparse.ArgumentParser):
    """Reports a mistake in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


@dataclass(frozen=True)
class Command:
    """A subcommand: a line of help, the options it takes, and what it does."""

    summary: str
    examples: str
    configure: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]
    arguments: str = "[OPTION ...]"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    argv = list(sys.argv[1:] if argv is None else argv)
    parser = _Parser(prog="rlprune", description="Adaptive filter pruning of convolutional networks.")
    parser.add_argument("--version", action="version", version=_version())
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, command in COMMANDS.items():
        sub = subparsers.add_parser(
            name,
            help=command.summary,
            description=command.summary,
            epilog=f"examples:\n{command.examples}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            argument_default=argparse.SUPPRESS,
            usage=f"rlprune {name} {command.arguments}",
        )
        if name in argv[:1]:  # the options of the others need imports that nobody is waiting for
            command.configure(sub)
    args = parser.parse_args(argv)
    try:
        return COMMANDS[args.command].run(args)
    except UserError as error:
        print(f"rlprune {args.command}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"rlprune {args.command}: interrupted; add --resume to go on where it is resumable", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return 141


def _version() -> str:
    from rlprune.record import versions

    return f"rlprune {versions(['rlprune']).get('rlprune', 'unknown')}"


def _console(*, stderr: bool = False) -> Any:
    from rich.console import Console

    return Console(stderr=stderr)


def _field_options(
    group: argparse._ArgumentGroup, cls: Any, prefix: str = "", skip: Sequence[str] = (), defaults: Any = None
) -> None:
    """An option for every field of a dataclass; its docstring is the help, `defaults` an instance to tell of."""
    assert is_dataclass(cls)
    notes = _field_notes(cls)
    for field in fields(cls):
        kind = str(field.type)
        if field.name in skip or kind.startswith("Mapping"):
            continue
        flag = f"--{prefix}{field.name}".replace("_", "-")
        dest = f"{prefix}{field.name}".replace("-", "_")
        default = field.default if defaults is None else getattr(defaults, field.name)
        text = f"{notes.get(field.name, '')} (default: {default})".replace("%", "%%")
        if kind == "bool":
            group.add_argument(flag, dest=dest, action=argparse.BooleanOptionalAction, help=text)
        elif kind.startswith("tuple"):
            group.add_argument(
                flag, dest=dest, type=_listed(float if "float" in kind else str), metavar="A,B", help=text
            )
        else:
            number = int if kind.startswith("int") else float if kind.startswith("float") else str
            metavar = {int: "N", float: "X", str: "NAME"}[number]
            group.add_argument(flag, dest=dest, type=number, metavar=metavar, help=text)


def _listed(item: Callable[[str], Any]) -> Callable[[str], tuple[Any, ...]]:
    """What reads `a,b,c`; `none` is the empty list."""

    def values(text: str) -> tuple[Any, ...]:
        return () if text == "none" else tuple(item(part) for part in text.split(","))

    return values


def _given(args: argparse.Namespace, cls: Any, prefix: str = "") -> dict[str, Any]:
    """The fields of a dataclass for which an option was given."""
    dests = {field.name: f"{prefix}{field.name}".replace("-", "_") for field in fields(cls)}
    return {name: getattr(args, dest) for name, dest in dests.items() if hasattr(args, dest)}


def _field_notes(cls: Any) -> dict[str, str]:
    """Field name -> its text in the class docstring's `Attributes` section."""
    notes: dict[str, str] = {}
    name = None
    for line in (cls.__doc__ or "").partition("Attributes:")[2].splitlines():
        head, colon, rest = line.strip().partition(": ")
        if colon and head.isidentifier() and line.startswith(" " * 8) and not line.startswith(" " * 9):
            name, notes[head] = head, rest
        elif name and line.strip():
            notes[name] += f" {line.strip()}"
    return notes


# --- the network and its data ---------------------------------------------------------------------------------------


def _problem_options(parser: argparse.ArgumentParser) -> None:
    from rlprune.problem import ProblemSpec

    group = parser.add_argument_group("network and data")
    _field_options(group, ProblemSpec, skip=("keep", "seed"))
    group.add_argument("--keep", action="append", metavar="PATTERN", help="never prune layers of this name; repeatable")
    group.add_argument("--seed", type=int, metavar="N", help="seed of everything random (default: 0)")


def _problem_spec(args: argparse.Namespace, start: ProblemSpec | None = None) -> ProblemSpec:
    from rlprune.problem import ProblemSpec

    given = _given(args, ProblemSpec)
    if "keep" in given:
        given["keep"] = tuple(given["keep"])
    return replace(start or ProblemSpec(), **given)


def _run_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("run")
    group.add_argument("--out", metavar="DIR", help="run folder (default: a new one under runs/)")
    group.add_argument(
        "--resume",
        action="store_true",
        help="go on with the run in --out; prune finds the newest unfinished one itself",
    )
    group.add_argument("--quiet", action="store_true", help="no progress, no table")
    group.add_argument("--json", action="store_true", help="print the record as JSON")


# --- prune ----------------------------------------------------------------------------------------------------------


def _configure_prune(parser: argparse.ArgumentParser) -> None:
    from rlprune.agents import METHODS, RULES, PruneSettings
    from rlprune.recovery import TrainSettings

    _problem_options(parser)
    group = parser.add_argument_group(
        "pruning", "The defaults are those of the method prc; `rlprune methods NAME` shows another method's."
    )
    group.add_argument(
        "--method",
        metavar="NAME",
        help=f"recipe that all other values come from unless given: {', '.join(METHODS.names())} (default: prc)",
    )
    _field_options(
        group, PruneSettings, skip=("problem", "method", "controller_options", "finetune"), defaults=PruneSettings()
    )
    group = parser.add_argument_group("fine-tuning", "Training of the pruned network; the better of both is kept.")
    _field_options(group, TrainSettings, prefix="finetune-", defaults=PruneSettings().finetune)
    _run_options(parser)
    for name in RULES.names():
        group = parser.add_argument_group(f"controller {name}")
        _field_options(group, RULES.get(name), prefix=f"{name}-")


def _prune_settings(args: argparse.Namespace, start: PruneSettings) -> PruneSettings:
    """The settings of `start` (a recipe, or the run to go on with), changed by the options that were given."""
    from rlprune.agents import RULES, PruneSettings
    from rlprune.agents.controller import AGENT
    from rlprune.recovery import TrainSettings

    given = _given(args, PruneSettings)
    controller = given.get("controller", start.controller)
    options = dict(start.controller_options) if controller == start.controller else {}
    if not controller.startswith(AGENT):
        options |= _given(args, RULES.get(controller), f"{controller}-")
    finetune = replace(start.finetune, **_given(args, TrainSettings, "finetune-"))
    return replace(
        start, **given, problem=_problem_spec(args, start.problem), controller_options=options, finetune=finetune
    )


def _run_prune(args: argparse.Namespace) -> int:
    from rlprune.agents import METHODS, PruneSettings, prune
    from rlprune.record import RunFolder, free_folder, newest_unfinished
    from rlprune.report.live import LiveRun
    from rlprune.report.summary import print_summary

    resume, as_json = hasattr(args, "resume"), hasattr(args, "json")
    out = Path(args.out) if hasattr(args, "out") else newest_unfinished(Path("runs")) if resume else None
    if resume and out is not None and RunFolder(out).exists():
        recorded = RunFolder(out).read()["settings"]
        if "problem" not in recorded:
            raise UserError(f"{out} holds another kind of run, not a pruning; name the run with --out")
        start = PruneSettings.from_json(recorded)
    else:
        start = METHODS.get(getattr(args, "method", "prc")).settings
    settings = _prune_settings(args, start)
    folder = RunFolder(out or free_folder("runs", settings.name))
    console = _console(stderr=True)
    quiet = hasattr(args, "quiet")
    with LiveRun(settings.tolerance, console, quiet=quiet) as live:
        record = prune(settings, folder, command=shlex.join(["rlprune", *sys.argv[1:]]), resume=resume, watcher=live)
    if as_json:
        print(json.dumps(record, indent=2))
    elif not quiet:
        print_summary(record, _console())
        print(f"Written to {folder.path}")
    return 0


# --- train ----------------------------------------------------------------------------------------------------------


def _configure_train(parser: argparse.ArgumentParser) -> None:
    from rlprune.agents.basetraining import BaseSettings
    from rlprune.recovery import TrainSettings

    group = parser.add_argument_group("network and data")
    _field_options(group, BaseSettings, skip=("training",))
    group = parser.add_argument_group("training")
    _field_options(group, TrainSettings, defaults=BaseSettings().training)
    _run_options(parser)


def _run_train(args: argparse.Namespace) -> int:
    from rlprune.agents.basetraining import BaseSettings, train_base
    from rlprune.record import RunFolder, free_folder
    from rlprune.recovery import TrainSettings
    from rlprune.report.live import LiveRun

    resume, start = hasattr(args, "resume"), BaseSettings()
    if resume and hasattr(args, "out") and RunFolder(args.out).exists():
        start = BaseSettings.from_json(RunFolder(args.out).read()["settings"])
    training = replace(start.training, **_given(args, TrainSettings))
    settings = replace(start, **_given(args, BaseSettings), training=training)
    words = (Path(settings.model.partition(":")[2] or settings.model).stem, Path(settings.data).stem)
    name = "-".join([*words, "base", f"s{settings.seed}"]).replace(":", "-")
    folder = RunFolder(args.out if hasattr(args, "out") else free_folder("runs", name))
    quiet = hasattr(args, "quiet") or int(os.environ.get("RANK", "0")) > 0
    with LiveRun(0.0, _console(stderr=True), quiet=quiet) as live:
        record = train_base(
            settings, folder, command=shlex.join(["rlprune", *sys.argv[1:]]), resume=resume, on_step=live.work
        )
    if hasattr(args, "json"):
        print(json.dumps(record, indent=2))
    elif not quiet:
        low, high = record["test_interval"]
        print(
            f"{record['metric']} {100 * record['test_score']:.2f} % on test [{100 * low:.2f}, {100 * high:.2f}], "
            f"{100 * record['control_score']:.2f} % on control; weights in {folder.model_file}"
        )
    return 0


# --- methods --------------------------------------------------------------------------------------------------------


def _configure_methods(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", nargs="?", metavar="NAME", help="show the constants of one method")
    parser.add_argument("--json", action="store_true", help="print JSON")


def _run_methods(args: argparse.Namespace) -> int:
    from rlprune.agents import METHODS, RULES
    from rlprune.report.methods import constants, print_constants, print_methods

    name = getattr(args, "name", None)
    if name is None:
        recipes = {name: METHODS.get(name) for name in METHODS.names()}
        if hasattr(args, "json"):
            print(json.dumps({name: recipe.summary for name, recipe in recipes.items()}, indent=2))
        else:
            print_methods({name: recipe.summary for name, recipe in recipes.items()}, _console())
        return 0
    recipe = METHODS.get(name)
    found = constants(recipe.settings, RULES.get(recipe.settings.controller))
    if hasattr(args, "json"):
        print(json.dumps(found, indent=2))
    else:
        print_constants(name, recipe.summary, found, _console())
    return 0


# --- evaluate, inspect ----------------------------------------------------------------------------------------------


def _configure_evaluate(parser: argparse.ArgumentParser) -> None:
    _problem_options(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")


def _run_evaluate(args: argparse.Namespace) -> int:
    problem = _problem_spec(args).build()
    control = problem.evaluator.score(problem.model, "control")
    test = problem.evaluator.score(problem.model, "whole_test")
    found = {
        "metric": test.metric,
        "test_score": test.value,
        "test_interval": list(test.interval()),
        "test_size": test.n,
        "control_score": control.value,
        "control_interval": list(control.interval()),
        "control_size": control.n,
        "macs": problem.cost.macs(),
        "parameters": problem.parameters(problem.base()),
    }
    if hasattr(args, "json"):
        print(json.dumps(found, indent=2))
    else:
        for name, score in (("test", test), ("control", control)):
            low, high = score.interval()
            interval = f"[{100 * low:.2f}, {100 * high:.2f}]"
            print(f"{name:10} {100 * score.value:.2f} % {interval}, {score.metric} on {score.n:,} examples")
        print(f"MACs       {found['macs']:,}\nparameters {found['parameters']:,}")
    return 0


def _run_inspect(args: argparse.Namespace) -> int:
    from rlprune.report.groups import describe_groups, print_groups

    problem: PruningProblem = _problem_spec(args).build()
    if hasattr(args, "json"):
        print(json.dumps(describe_groups(problem.groups, problem.cost), indent=2))
    else:
        print_groups(problem.groups, problem.cost, _console())
    return 0


# --- replay, export -------------------------------------------------------------------------------------------------


def _configure_replay(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_folder", metavar="RUN", help="a run folder written by `rlprune prune`")
    parser.add_argument("--json", action="store_true", help="print JSON")


def _run_replay(args: argparse.Namespace) -> int:
    from rlprune.agents import replay

    found = replay(Path(args.run_folder))
    if hasattr(args, "json"):
        print(json.dumps(found, indent=2))
    else:
        for line in found["checks"]:
            print(f"{line['name']:16} recorded {line['recorded']}, replayed {line['replayed']}")
        print("The record holds.")
    return 0


def _configure_export(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_folder", metavar="RUN", help="a run folder written by `rlprune prune`")
    parser.add_argument("--format", required=True, metavar="FORMAT", help="pt2 or onnx")
    parser.add_argument("--out", metavar="FILE", help="default: RUN/model.FORMAT")


def _run_export(args: argparse.Namespace) -> int:
    from rlprune.agents import rebuild
    from rlprune.artifact import export

    folder = Path(args.run_folder)
    problem, network = rebuild(folder)
    path = Path(args.out) if hasattr(args, "out") else folder / f"model.{args.format}"
    difference = export(network.model, problem.export_inputs, path, args.format)
    print(f"{path}: same outputs as the network (relative difference {difference:.1e})")
    return 0


# --- compare, report, pareto ----------------------------------------------------------------------------------------


def _comparison(name: str) -> Callable[[Any], Any]:
    """A function of `rlprune.agents.comparison.commands`, looked up when it is called."""

    def call(argument: Any) -> Any:
        from importlib import import_module

        return getattr(import_module("rlprune.agents.comparison.commands"), name)(argument)

    return call


COMMANDS = {
    "prune": Command(
        "prune a network to an error tolerance",
        "  rlprune prune\n"
        "  rlprune prune --model resnet20 --weights resnet20.pt --data cifar10.npz --tolerance 0.02\n"
        "  rlprune prune --model mynet.py:build --weights mine.pt --data photos/\n"
        "  rlprune prune --method fpsl --target-macs 0.5 --fpsl-share 0.05 --lr 0.01\n"
        "  rlprune prune --controller uniform --uniform-rate 0.1\n"
        "  rlprune prune --out runs/mine --resume",
        _configure_prune,
        _run_prune,
    ),
    "train": Command(
        "train a base network on the train role, for prune --weights",
        "  rlprune train --model vgg16 --data torchvision:CIFAR10 --device cuda --epochs 200 --lr 0.05 --amp\n"
        "  rlprune train --model resnet110 --data cifar10.npz --out runs/base --resume",
        _configure_train,
        _run_train,
    ),
    "methods": Command(
        "list the methods of `prune --method`, or show one with all its constants",
        "  rlprune methods\n  rlprune methods fpsl",
        _configure_methods,
        _run_methods,
    ),
    "evaluate": Command(
        "score a network on its test and control splits, and count its cost",
        "  rlprune evaluate --model resnet56 --weights resnet56.pt --data cifar10.npz --json",
        _configure_evaluate,
        _run_evaluate,
    ),
    "inspect": Command(
        "show the channel groups of a network, what couples them, and why some are locked",
        "  rlprune inspect --model resnet20 --weights resnet20.pt --data cifar10.npz",
        _configure_evaluate,
        _run_inspect,
    ),
    "replay": Command(
        "rebuild a run's network from its record and check score and cost",
        "  rlprune replay runs/lenet5-digits-prc",
        _configure_replay,
        _run_replay,
        "RUN [OPTION ...]",
    ),
    "export": Command(
        "export a run's network, checked against it",
        "  rlprune export runs/lenet5-digits-prc --format pt2\n  rlprune export runs/lenet5-digits-prc --format onnx",
        _configure_export,
        _run_export,
        "RUN --format FORMAT [OPTION ...]",
    ),
    "compare": Command(
        "compare schedules on networks, data, seeds and goals at equal terms, and report",
        "  rlprune compare\n"
        "  rlprune compare --controllers uniform,prc,cem --models resnet20=resnet20.pt --data cifar10.npz "
        "--budgets 0.5,0.3 --workers 2\n"
        "  rlprune compare --tolerances 0.01 --finetune 2 --scratch --out runs/mine",
        _comparison("configure_compare"),
        _comparison("run_compare"),
    ),
    "report": Command(
        "make one HTML file, and figures, of a run or a comparison",
        "  rlprune report runs/lenet5-digits-prc\n  rlprune report runs/compare-lenet5-digits --out compared.html",
        _comparison("configure_report"),
        _comparison("run_report"),
        "FOLDER [OPTION ...]",
    ),
    "pareto": Command(
        "list the networks of all runs that no other one beats, and export one",
        "  rlprune pareto runs/\n  rlprune pareto runs/ --export ID --format onnx --out small.onnx",
        _comparison("configure_pareto"),
        _comparison("run_pareto"),
        "FOLDER [OPTION ...]",
    ),
}


if __name__ == "__main__":
    sys.exit(main())
