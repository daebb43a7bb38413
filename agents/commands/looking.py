"""The commands that look: `evaluate`, `inspect`, `replay`, `export`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rlprune.agents.commands.options import Json, Section, Trust, parse
from rlprune.agents.commands.prune import spec_of
from rlprune.errors import check_is_file
from rlprune.importing import print_json
from rlprune.notices import tell
from rlprune.spec import ProblemSpec


def evaluate(argv: Sequence[str], about: str, examples: str) -> int:
    """Score a network, or that of a run on the run's own splits."""
    run = argv[0] if argv and not argv[0].startswith("-") else None
    sections = [Section(ProblemSpec), Section(Json)] if run is None else [Section(Trust), Section(Json)]
    given = parse("evaluate", sections, argv if run is None else argv[1:], about=about, examples=examples)
    from rlprune.agents.runs.replaying import rebuild
    from rlprune.report.summary import describe_scores, near_chance

    if run is None:
        problem, test = spec_of(given).build(), "whole_test"
        network = problem.base()
    else:
        (problem, network), test = rebuild(Path(run), model=given["model"], trust=given["trust"]), "test"
    found = {
        **problem.evaluator.score(network.model, "control").figures("control"),
        **problem.evaluator.score(network.model, test).figures("test"),
        "macs": problem.macs(network),
        "parameters": problem.parameters(network),
    }
    print_json(found) if given["json"] else print(describe_scores(found))
    hint = near_chance(found["metric"], found["control_score"], len(problem.data.classes))
    if hint and given.get("weights"):
        tell(hint)
    return 0


def inspect(argv: Sequence[str], about: str, examples: str) -> int:
    """Show the channel groups of a network."""
    given = parse("inspect", [Section(ProblemSpec), Section(Json)], argv, about=about, examples=examples)
    from rich.console import Console

    from rlprune.report.groups import describe_groups, print_groups

    problem = spec_of(given).build(untrained=True)
    if given["json"]:
        print_json(describe_groups(problem.groups, problem.cost))
    else:
        print_groups(problem.groups, problem.cost, Console())
    return 0


RUN = {"run": "A run folder written by `rlprune prune`."}


def replay(argv: Sequence[str], about: str, examples: str) -> int:
    """Rebuild a run from its record and check it."""
    given = parse("replay", [Section(Trust), Section(Json)], argv, positional=RUN, about=about, examples=examples)
    from rlprune.agents.runs.replaying import replay as check

    found = check(Path(given["run"]), model=given["model"], trust=given["trust"])
    if given["json"]:
        print_json(found)
    else:
        for line in found["checks"]:
            print(f"{line['name']:16} recorded {line['recorded']}, replayed {line['replayed']}")
        print("The record holds.")
    return 0


@dataclass(frozen=True)
class Export:
    """Where a network goes.

    Attributes:
        format: pt2 or onnx.
        out: The file; RUN/model.FORMAT unless given.
    """

    format: str
    out: str | None = None


def export(argv: Sequence[str], about: str, examples: str) -> int:
    """Export a run's network."""
    given = parse("export", [Section(Export), Section(Trust)], argv, positional=RUN, about=about, examples=examples)
    from rlprune.agents.runs.replaying import without_data
    from rlprune.artifact import export as write

    folder = Path(given["run"])
    path = Path(given["out"] or folder / f"model.{given['format']}")
    check_is_file("--out", path)
    difference = write(*without_data(folder, model=given["model"], trust=given["trust"]), path, given["format"])
    print(f"{path}: same outputs as the network (relative difference {difference:.1e})")
    return 0
