"""The command line: the table of subcommands, and the two that need nothing above this package.

A user's mistake is one line on the error stream and exit status 2. Results go to standard output, progress to the
error stream, so that `--json` can be piped.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, NoReturn

from rlprune.agents.commands.options import console, problem_options, problem_spec
from rlprune.errors import UserError

if TYPE_CHECKING:
    from rlprune.problem import PruningProblem


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


def _configure_evaluate(parser: argparse.ArgumentParser) -> None:
    problem_options(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")


def _run_evaluate(args: argparse.Namespace) -> int:
    from rlprune.report.summary import describe_scores

    problem = problem_spec(args).build()
    found = {
        **problem.evaluator.score(problem.model, "whole_test").figures("test"),
        **problem.evaluator.score(problem.model, "control").figures("control"),
        "macs": problem.cost.macs(),
        "parameters": problem.parameters(problem.base()),
    }
    if hasattr(args, "json"):
        print(json.dumps(found, indent=2))
    else:
        print(describe_scores(found))
    return 0


def _run_inspect(args: argparse.Namespace) -> int:
    from rlprune.report.groups import describe_groups, print_groups

    problem: PruningProblem = problem_spec(args).build(untrained=True)
    if hasattr(args, "json"):
        print(json.dumps(describe_groups(problem.groups, problem.cost), indent=2))
    else:
        print_groups(problem.groups, problem.cost, console())
    return 0


def _later(module: str, name: str) -> Callable[[Any], Any]:
    """A function of a package above this one, looked up when it is called: imports point one way but for here."""

    def call(argument: Any) -> Any:
        return getattr(import_module(f"rlprune.agents.{module}"), name)(argument)

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
        _later("commands.prune", "configure_prune"),
        _later("commands.prune", "run_prune"),
    ),
    "train": Command(
        "train a base network on the train role, for prune --weights",
        "  rlprune train --model vgg16 --data torchvision:CIFAR10 --device cuda --epochs 200 --lr 0.05 --amp\n"
        "  rlprune train --model resnet110 --data cifar10.npz --out runs/base --resume",
        _later("commands.prune", "configure_train"),
        _later("commands.prune", "run_train"),
    ),
    "train-agent": Command(
        "train a controller agent on some networks, to set the rates of others",
        "  rlprune train-agent --models resnet20=resnet20.pt,resnet32=resnet32.pt --data cifar10.npz --budget 0.3:0.7\n"
        "  rlprune train-agent --algo sac --episodes 300 --workers 4 --out runs/agent\n"
        "  rlprune train-agent --out runs/agent --resume",
        _later("commands.agents", "configure_train_agent"),
        _later("commands.agents", "run_train_agent"),
    ),
    "episode": Command(
        "run a trained agent, or a rule, once on a network it has never seen",
        "  rlprune episode --agent runs/agent/agent.zip --model resnet56 --weights resnet56.pt --data cifar10.npz "
        "--budget 0.5\n"
        "  rlprune episode --agent runs/agent/agent.zip --tolerance 0.02 --finetune-epochs 10\n"
        "  rlprune episode --controller uniform --budget 0.3",
        _later("commands.agents", "configure_episode"),
        _later("commands.agents", "run_episode"),
    ),
    "methods": Command(
        "list the methods of `prune --method`, or show one with all its constants",
        "  rlprune methods\n  rlprune methods fpsl",
        _later("commands.prune", "configure_methods"),
        _later("commands.prune", "run_methods"),
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
    "sensitivity": Command(
        "prune every channel group alone, at every rate, and show what it costs the score",
        "  rlprune sensitivity\n"
        "  rlprune sensitivity --model resnet56 --weights resnet56.pt --data cifar10.npz --recovery lsq --limit 1000\n"
        "  rlprune sensitivity --rates 0.25,0.5,0.75 --groups 'layer3.*,layer4.*' --out runs/scan\n"
        "  rlprune sensitivity --out runs/scan --resume\n"
        "  rlprune episode --controller sensitivity --sensitivity-file runs/scan/sensitivity.json --budget 0.5",
        _later("commands.sensitivity", "configure_sensitivity"),
        _later("commands.sensitivity", "run_sensitivity"),
    ),
    "replay": Command(
        "rebuild a run's network from its record and check score and cost",
        "  rlprune replay runs/lenet5-digits-prc",
        _later("commands.prune", "configure_replay"),
        _later("commands.prune", "run_replay"),
        "RUN [OPTION ...]",
    ),
    "export": Command(
        "export a run's network, checked against it",
        "  rlprune export runs/lenet5-digits-prc --format pt2\n  rlprune export runs/lenet5-digits-prc --format onnx",
        _later("commands.prune", "configure_export"),
        _later("commands.prune", "run_export"),
        "RUN --format FORMAT [OPTION ...]",
    ),
    "compare": Command(
        "compare schedules on networks, data, seeds and goals at equal terms, and report",
        "  rlprune compare\n"
        "  rlprune compare --controllers uniform,prc,cem --models resnet20=resnet20.pt --data cifar10.npz "
        "--budgets 0.5,0.3 --workers 2\n"
        "  rlprune compare --tolerances 0.01 --finetune 2 --scratch --out runs/mine",
        _later("commands.compare", "configure_compare"),
        _later("commands.compare", "run_compare"),
    ),
    "report": Command(
        "make one HTML file, and figures, of a run or a comparison",
        "  rlprune report runs/lenet5-digits-prc\n  rlprune report runs/compare-lenet5-digits --out compared.html",
        _later("commands.compare", "configure_report"),
        _later("commands.compare", "run_report"),
        "FOLDER [OPTION ...]",
    ),
    "pareto": Command(
        "list the networks of all runs that no other one beats, and export one",
        "  rlprune pareto runs/\n  rlprune pareto runs/ --export ID --format onnx --out small.onnx",
        _later("commands.compare", "configure_pareto"),
        _later("commands.compare", "run_pareto"),
        "FOLDER [OPTION ...]",
    ),
}


if __name__ == "__main__":
    sys.exit(main())
