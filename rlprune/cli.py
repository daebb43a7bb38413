"""The command line: the table of commands. A command's module is imported when it is called, and so is torch.

A user's mistake is one line on the error stream and exit status 2. Results go to standard output, progress to the
error stream, so that `--json` can be piped.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from importlib import import_module, metadata

from rlprune.errors import HelpShown, UserError, check_known, printable
from rlprune.importing import only_results
from rlprune.notices import holding


@dataclass(frozen=True)
class Command:
    """A command: where it is, a line about it, and examples."""

    home: str
    summary: str
    examples: str


GROUPS: dict[str, dict[str, Command]] = {
    "make networks smaller": {
        "prune": Command(
            "prune:prune",
            "prune a network to an error tolerance",
            "  rlprune prune\n"
            "  rlprune prune --model resnet20 --weights resnet20.pt --data cifar10.npz --tolerance 0.02 --epochs 12\n"
            "  rlprune prune --model mynet.py:build --weights mine.pt --data photos/\n"
            "  rlprune prune --method fpsl --published --target-macs 0.5 --fpsl.share 0.05\n"
            "  rlprune prune --recipe mine.yml\n"
            "  rlprune prune --out runs/mine --resume",
        ),
        "compare": Command(
            "compare:compare",
            "compare schedules at equal terms, and report",
            "  rlprune compare\n"
            "  rlprune compare --methods uniform prc cem --models resnet20=resnet20.pt --data cifar10.npz "
            "--tolerances 0.01 0.02 --epochs 12 --workers 2",
        ),
        "train": Command(
            "train:train",
            "train a network: a base for prune --weights, or a pruned one",
            "  rlprune train --model vgg16 --data torchvision:CIFAR10 --device cuda --epochs 200 --lr 0.05\n"
            "  rlprune train --model resnet110 --data cifar10.npz --out runs/base --resume",
        ),
        "methods": Command(
            "prune:methods",
            "list the methods of `prune --method`, or show one",
            "  rlprune methods\n  rlprune methods fpsl --published\n  rlprune methods prc --yaml > mine.yml",
        ),
    },
    "agents": {
        "train-agent": Command(
            "agents:train_agent",
            "train an agent on some networks, to set the rates of others",
            "  rlprune train-agent --models resnet20=resnet20.pt resnet32=resnet32.pt --data cifar10.npz "
            "--budgets 0.3:0.7\n"
            "  rlprune train-agent --algorithm sac --episodes 300 --workers 4 --out runs/agent\n"
            "  rlprune train-agent --out runs/agent --resume",
        ),
        "agents": Command(
            "agents:agents",
            "list the agents that come with the package, and what they know",
            "  rlprune agents\n  rlprune agents runs/agent/agent.zip --json",
        ),
        "train-population": Command(
            "population:train_population",
            "train small networks of many families, for agents",
            "  rlprune train-population --data cifar10.npz --networks 20 --epochs 2 --control-size 1000 --workers 2 "
            "--out population\n"
            "  rlprune train-population --data cifar10.npz --out population --resume\n"
            "  rlprune train-agent --models population:population --data cifar10.npz",
        ),
        "episode": Command(
            "episode:episode",
            "run an agent, or a rule, once on a network it has never seen",
            "  rlprune episode --agent runs/agent/agent.zip --model resnet56 --weights resnet56.pt --data cifar10.npz "
            "--budget 0.5\n"
            "  rlprune episode --controller uniform --budget 0.3",
        ),
    },
    "look": {
        "evaluate": Command(
            "looking:evaluate",
            "score a network, or a run's, and count its cost",
            "  rlprune evaluate runs/lenet5-digits-prc\n"
            "  rlprune evaluate --model resnet56 --weights resnet56.pt --data cifar10.npz --json",
        ),
        "inspect": Command(
            "looking:inspect",
            "show the channel groups, what couples them, why some are locked",
            "  rlprune inspect --model resnet20 --weights resnet20.pt --data cifar10.npz",
        ),
        "sensitivity": Command(
            "sensitivity:sensitivity",
            "prune every channel group alone, and show what it costs",
            "  rlprune sensitivity\n"
            "  rlprune sensitivity --rates 0.25 0.5 0.75 --groups 'layer3.*' 'layer4.*' --out runs/scan\n"
            "  rlprune sensitivity --out runs/scan --resume",
        ),
        "report": Command(
            "compare:report",
            "make one HTML file, and figures, of a run or a comparison",
            "  rlprune report runs/lenet5-digits-prc\n  rlprune report runs/compare-lenet5-digits --out compared.html",
        ),
        "replay": Command(
            "looking:replay", "rebuild a run's network from its record, and check it", "  rlprune replay RUN"
        ),
        "export": Command(
            "looking:export",
            "export a run's network, checked against it",
            "  rlprune export runs/lenet5-digits-prc --format onnx",
        ),
        "pareto": Command(
            "compare:pareto",
            "list the networks that no other one beats, and export one",
            "  rlprune pareto runs/\n  rlprune pareto runs/ --export ID --format onnx --out small.onnx",
        ),
    },
}
COMMANDS = {name: command for commands in GROUPS.values() for name, command in commands.items()}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if not argv or argv[0] in ("-h", "--help"):
        print(_help())
        return 0 if argv else 2
    if argv[0] == "--version":
        print(f"rlprune {metadata.version('rlprune')}")
        return 0
    name = argv[0]
    try:
        check_known("command", name, COMMANDS)
        module, _, function = COMMANDS[name].home.partition(":")
        run = getattr(import_module(f"rlprune.agents.commands.{module}"), function)
        apart = only_results() if "--json" in argv and not {"-h", "--help", "--help-all"} & {*argv} else nullcontext()
        with warnings.catch_warnings(), holding(name), apart:
            return int(run(argv[1:], COMMANDS[name].summary, COMMANDS[name].examples))
    except UserError as error:
        print(f"rlprune {printable(name)}: {printable(str(error))}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"rlprune {name}: interrupted; add --resume to go on where it is resumable", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return 141
    except HelpShown:
        return 0
    except SystemExit as end:  # nothing of this package ends the process
        print(f"rlprune {name}: the network's own code called sys.exit({end.code!r}); take that out", file=sys.stderr)
        return 2


def _help() -> str:
    """All commands, by group."""
    lines = ["usage: rlprune COMMAND [OPTION ...]", "", "Adaptive filter pruning of convolutional networks."]
    for group, commands in GROUPS.items():
        lines += ["", f"{group}:", *(f"  {name:12} {command.summary}" for name, command in commands.items())]
    return "\n".join([*lines, "", "rlprune COMMAND --help says more; rlprune --version"])


if __name__ == "__main__":
    sys.exit(main())
