"""`rlprune compare`, `rlprune report` and `rlprune pareto`."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rlprune.agents.commands.options import Json, Section, Trust, check_resumed, command_line, parse, value_of
from rlprune.agents.commands.prune import spec_of
from rlprune.agents.compare.settings import CompareSettings
from rlprune.agents.controllers.registry import RULES, rule_class
from rlprune.errors import UserError, check_is_file, reading
from rlprune.files import read_json
from rlprune.importing import print_json
from rlprune.record import free_folder, newest_unfinished
from rlprune.spec import ProblemSpec

if TYPE_CHECKING:
    from rlprune.agents.compare.cells import Job, Result
    from rlprune.agents.compare.comparison import Comparison

COMMON = {"methods", "models", "data", "seeds", "tolerances", "budgets", "epochs", "scratch", "baseline", "skip", "lr",
          "device", "workers", "ray", "out", "resume", "quiet", "json"}  # fmt: skip
OWN_PROBLEM = ("model", "data", "weights", "seed")
FORMATS = ("png", "svg")


@dataclass(frozen=True)
class Changes:
    """What all recipes are changed to; each keeps its own unless given. A rule's options go behind its name.

    Attributes:
        criterion: Ranking of the filters.
        recovery: Repairs after each removal that need no training, joined by `+`.
        skip: Kinds of groups that stay whole, such as residual; `none` for no kind.
        max_rate: Most of a group that one round may remove.
        rounds: Most rounds.
        lr: Learning rate of all training.
        batch_size: Images a step in all training.
        amp: Mixed precision in all training; off where a recipe leaves it open, so that all cells train alike.
    """

    criterion: str | None = None
    recovery: str | None = None
    skip: tuple[str, ...] = ()
    max_rate: float | None = None
    rounds: int | None = None
    lr: float | None = None
    batch_size: int | None = None
    amp: Literal["on", "off"] | None = None


@dataclass(frozen=True)
class Work:
    """How the cells are done.

    Attributes:
        workers: Processes on this machine, one thread each.
        ray: Address of a Ray cluster to run on instead: auto, HOST:PORT, or local.
        out: Folder; a new one under runs/ unless given. What it holds already is not done again.
        resume: Go on with the comparison in `--out`, or with the newest unfinished one, by the settings that it has.
        retry_failed: Try again what failed before.
        report: Write the HTML file and the figures.
        quiet: No progress, no table.
        json: Print comparison.json.
        trust: Run the Python files that the comparison to go on with names: they are yours, or you have looked at them.
    """

    workers: int = 1
    ray: str | None = None
    out: str | None = None
    resume: bool = False
    retry_failed: bool = False
    report: bool = True
    quiet: bool = False
    json: bool = False
    trust: bool = False


def compare(argv: Sequence[str], about: str, examples: str) -> int:
    """Compare schedules."""
    from_folder = _resumed(argv)
    start = from_folder[1] if from_folder else CompareSettings()
    flags = [text.removeprefix("--").partition("=")[0] for text in argv if text.startswith("--")]
    rules = {flag.partition(".")[0] for flag in flags if "." in flag} & set(RULES)
    sections = [
        Section(CompareSettings, default=start, skip=("changes",)),
        Section(Changes),
        Section(ProblemSpec, default=start.problem, skip=OWN_PROBLEM),
        *(Section(rule_class(rule), rule, rule_class(rule)(**start.changes.get(rule, {}))) for rule in rules),
        Section(Work),
    ]
    given = parse("compare", sections, argv, common=COMMON, about=about, examples=examples)
    if given["retry_failed"] and from_folder is None and given["out"] is None:
        raise UserError("--retry-failed is for a comparison that was begun; name its folder with --out")
    shared = {item.name: given[item.name] for item in fields(Changes) if given[item.name] or item.name in flags}
    options: dict[str, Any] = {}
    for rule, plain in ((rule, rule_class(rule)()) for rule in rules):  # what is not its default
        chosen = given[rule.replace("-", "_")]
        options[rule] = {name: value for name, value in chosen.items() if value != getattr(plain, name)}
    problem = {name: value for name, value in given.items() if name not in OWN_PROBLEM}
    own = {item.name: given[item.name] for item in fields(CompareSettings) if item.name in given}
    own |= {"problem": spec_of(problem), "changes": {**start.changes, **shared, **options}}
    settings = replace(start, **own)
    folder = from_folder[0] if from_folder else Path(given["out"] or free_folder("runs", settings.name))
    return run_compare(settings, folder, given)


def run_compare(settings: CompareSettings, folder: Path, given: Mapping[str, Any]) -> int:
    """Do the work, and say what came of it."""
    from rich.console import Console  # from here on it may take its time

    from rlprune.agents.compare.comparison import compare as work
    from rlprune.report.standings import print_comparison

    if given["ray"] is None:
        for cell in settings.cells():
            cell.spec.check_files()
        if not (folder / "comparison.json").exists():
            for spec in {replace(cell.spec, seed=0): cell.spec for cell in settings.cells()}.values():
                spec.build()  # what is wrong with it shows before there is a folder
    content = work(
        settings,
        folder,
        workers=given["workers"],
        ray=given["ray"],
        retry_failed=given["retry_failed"],
        command=command_line(),
        watcher=None if given["quiet"] else Progress(),
    )
    errors = [cell.get("error", {"kind": None}) for cell in content["cells"]]
    if all(error["kind"] in ("UserError", "NothingInside") for error in errors):
        raise UserError(f"no cell could be done: {errors[0]['message']}")
    if given["report"]:
        write_report_files(folder)
    if given["json"]:
        print_json(content)
    elif not given["quiet"]:
        print_comparison(content["analysis"], Console())
        print(f"Written to {folder}" + (f"; open {folder / 'report.html'}" if given["report"] else ""))
    return 0


def _resumed(argv: Sequence[str]) -> tuple[Path, CompareSettings] | None:
    """The comparison to go on with, and what it was started with."""
    if "--resume" not in argv:
        return None
    out = value_of(argv, "--out")
    folder = Path(out) if out else newest_unfinished(Path("runs"), "comparison.json")
    if folder is None or not (folder / "comparison.json").exists():
        return None
    with reading(folder / "comparison.json", "a comparison"):
        settings = CompareSettings.from_json(read_json(folder / "comparison.json")["settings"])
    check_resumed(folder / "comparison.json", [cell.spec for cell in settings.cells()], argv)
    return folder, settings


class Progress:
    """Says on the error stream what has ended, and when the rest may have."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._before: int | None = None

    def __call__(self, comparison: Comparison, job: Job, result: Result) -> None:
        """A cell has ended."""
        from rlprune.report.live import duration
        from rlprune.report.units import Unit

        done, total = comparison.done, len(comparison.cells)
        self._before = done - 1 if self._before is None else self._before
        left = (time.monotonic() - self._started) / max(done - self._before, 1) * (total - done)
        last = result.stages[[stage for stage in job.stages if stage in result.stages][-1]]
        if last["status"] == "failed":
            outcome = f"failed: {last['error']['message']}"
        else:
            found = (result.stages.get("prune") or job.pruned or last)["pruned"]
            outcome = f"test {Unit.of(found).score(found['test_score'])}, {found['macs']:,} MACs"
        line = f"{f'{done}/{total}':>9}  {job.cell.id}: {outcome}; about {duration(left)} left"
        print(line, file=sys.stderr, flush=True)


# --- report ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Report:
    """What is written of a folder.

    Attributes:
        out: The HTML file; FOLDER/report.html unless given.
        figures: Formats of the figures in FOLDER/figures: png, svg, or none.
    """

    out: str | None = None
    figures: tuple[str, ...] = FORMATS


def report(argv: Sequence[str], about: str, examples: str) -> int:
    """Make the report of a run or a comparison."""
    folder = {"folder": "A run, or a comparison."}
    given = parse("report", [Section(Report)], argv, positional=folder, about=about, examples=examples)
    out = Path(given["out"]) if given["out"] else None
    check_is_file("--out", out)
    print(f"Written to {write_report_files(Path(given['folder']), out, given['figures'])}")
    return 0


def write_report_files(folder: Path, out: Path | None = None, formats: tuple[str, ...] = FORMATS) -> Path:
    """Write a folder's report, figures (into `figures/`) and TensorBoard events (into `tensorboard/`)."""
    from rlprune.report.content import load_content
    from rlprune.report.figures import write_events, write_figures
    from rlprune.report.html import write_report

    with reading(folder, "the folder of a run or a comparison"):
        content = load_content(folder)
        if formats:
            write_figures(content, folder / "figures", formats)
            write_events(content, folder / "tensorboard")
        path = out or folder / "report.html"
        write_report(content, path)
    return path


# --- pareto ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pareto:
    """Which networks are listed, and what is done with one.

    Attributes:
        by: What counts: score, macs, parameters, latency.
        data: Networks for this data set alone.
        all: List the beaten ones too.
        export: Export the network of this id.
        format: Of the export: pt, pt2 or onnx.
        out: Of the export; pruned.FORMAT unless given.
    """

    by: tuple[str, ...] = ("score", "macs", "parameters")
    data: str | None = None
    all: bool = False
    export: str | None = None
    format: str = "pt"
    out: str | None = None


def pareto(argv: Sequence[str], about: str, examples: str) -> int:
    """List the networks that no other one beats, or export one."""
    folder = {"folder": "Where runs and comparisons are, as in runs/."}
    sections = [Section(Pareto), Section(Trust), Section(Json)]
    given = parse("pareto", sections, argv, positional=folder, about=about, examples=examples)
    from rich.console import Console

    from rlprune.report.pareto import archive, choose, find_networks, print_networks

    networks = find_networks(Path(given["folder"]))
    if given["data"] is not None:
        known = sorted({network.data for network in networks})
        networks = [network for network in networks if network.data == given["data"]]
        if not networks:
            raise UserError(
                f"no network for data {given['data']!r} in {given['folder']}; there are: {', '.join(known) or 'none'}"
            )
    if given["export"] is None and given["out"] is not None:
        raise UserError(f"--out {given['out']} is of an export, and none is asked for; give --export ID")
    if given["export"] is not None:
        path = Path(given["out"] or f"pruned.{given['format']}")
        check_is_file("--out", path)
        trusted = {"model": given["model"], "trust": given["trust"]}
        print(export_network(choose(networks, given["export"]), path, given["format"], trusted))
        return 0
    best = archive(networks, given["by"])
    if not networks:
        raise UserError(f"no finished run or comparison in {given['folder']}; `rlprune prune` and `compare` write them")
    shown = networks if given["all"] else best
    if given["json"]:
        print_json([{**network.to_json(), "front": network in best} for network in shown])
        return 0
    print_networks(shown, best, Console())
    print(f"{len(best)} of {len(networks)} networks are beaten by no other. Export one with --export ID.")
    return 0


def export_network(network: Any, path: Path, form: str, trusted: Mapping[str, Any]) -> str:
    """Write a network of the archive to a file, checked against itself; returns what to tell the user.

    `trusted` are the `model` and `trust` of `rebuild`.
    """
    from rlprune.agents.compare.comparison import rebuild_cell
    from rlprune.agents.runs.replaying import rebuild
    from rlprune.artifact import export, save_pruned

    if network.kind == "run":
        problem, pruned = rebuild(network.folder, **trusted)
    else:
        problem, pruned = rebuild_cell(network.folder, network.stage, **trusted)
    if form == "pt":
        meta = {"model": network.model, "classes": list(problem.data.classes), "plan": pruned.plan.to_json()}
        save_pruned(path, problem.model, pruned.model, meta)
        return f"{path}: written as the README says how to load it"
    difference = export(pruned.model, problem.export_inputs, path, form)
    return f"{path}: same outputs as the network (relative difference {difference:.1e})"
