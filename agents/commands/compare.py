"""The subcommands `compare`, `report` and `pareto`."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from rlprune.agents.commands.options import console
from rlprune.agents.compare.settings import CompareSettings, PlaySettings, TuneSettings
from rlprune.agents.compare.stages import Job, Result
from rlprune.errors import UserError
from rlprune.report.live import duration
from rlprune.report.standings import print_comparison
from rlprune.report.units import Unit
from rlprune.spec import ProblemSpec

T = TypeVar("T")
DEFAULT_BUDGETS = (0.25, 0.1)


# --- compare --------------------------------------------------------------------------------------------------------


def configure_compare(parser: argparse.ArgumentParser) -> None:
    """The options of `rlprune compare`."""
    new, play, tune, problem = CompareSettings(budgets=DEFAULT_BUDGETS), PlaySettings(), TuneSettings(), ProblemSpec()
    group = parser.add_argument_group("what is compared (lists are separated by commas)")
    _add(group, "controllers", _names, "LIST", f"rules, searches, agent:FILE (default: {','.join(new.controllers)})")
    _add(group, "models", _names, "LIST", "networks, NAME or NAME=WEIGHTS_FILE (default: lenet5)")
    _add(group, "data", _names, "LIST", "data sets (default: digits)")
    _add(group, "seeds", _integers, "LIST", "seeds (default: 0,1,2)")
    _add(group, "budgets", _numbers, "LIST", "fractions of the MACs to keep (default, without --tolerances: 0.25,0.1)")
    _add(group, "tolerances", _numbers, "LIST", "drops of the control score allowed, as in 0.01,0.02")
    _add(group, "baseline", str, "NAME", "controller the others are compared with (default: uniform, else the first)")

    group = parser.add_argument_group("the rules of the game")
    _add(group, "criterion", str, "NAME", f"ranking of the filters (default: {play.criterion})")
    _add(group, "recovery", str, "NAMES", f"repairs after each removal, joined by + (default: {play.recovery})")
    _add(group, "max-rate", float, "X", f"most of a group that one-round schedules remove (default: {play.max_rate})")
    _add(
        group,
        "round-rate",
        float,
        "X",
        f"most of a group that others remove a round (default: {play.round_rate})",
    )
    _add(group, "rounds", int, "N", f"most rounds (default: {play.rounds})")
    _add(group, "skip", _names, "LIST", "kinds of groups that stay whole, such as residual")
    _add(group, "repair-epochs", float, "X", "training a round may spend to come back inside a tolerance (default: 0)")
    _add(group, "evaluations", int, "N", f"networks a search may score in each cell (default: {play.evaluations})")
    group.add_argument(
        "--set",
        action="append",
        metavar="CONTROLLER.OPTION=VALUE",
        help="a setting of one controller, as in prc.alpha=0.2; repeatable",
    )

    group = parser.add_argument_group("training afterwards, the same budget for every cell")
    _add(group, "finetune", float, "EPOCHS", "in all; training done while pruning is taken off (default: 0)")
    _add(group, "finetune-lr", float, "X", f"its learning rate (default: {tune.finetune_lr})")
    group.add_argument("--scratch", action="store_true", help="train the pruned shapes from scratch as well")
    _add(group, "scratch-epochs", float, "EPOCHS", "epochs of that (default: those of --finetune)")
    _add(group, "scratch-lr", float, "X", f"its learning rate (default: {tune.scratch_lr})")
    _add(group, "batch-size", int, "N", f"images a step in both (default: {tune.batch_size})")

    group = parser.add_argument_group("networks and data")
    _add(group, "root", str, "DIR", "where data sets are, or are downloaded to")
    _add(group, "device", str, "NAME", f"default: {problem.device}")
    _add(group, "control-from", str, "ROLE", "train or test: what the control split is cut from (default: as prune)")
    _add(group, "control-size", int, "N", "images in the control split")
    _add(group, "calibration-size", int, "N", "images in the calibration split")
    _add(group, "min-channels", int, "N", f"smallest width of a group (default: {problem.min_channels})")
    _add(group, "round-to", int, "N", f"widths stay multiples of this (default: {problem.round_to})")
    group.add_argument("--keep", action="append", metavar="PATTERN", help="never prune layers of this name; repeatable")

    group = parser.add_argument_group("run")
    _add(group, "workers", int, "N", "processes on this machine, one thread each (default: 1)")
    _add(group, "ray", str, "ADDRESS", "run on a Ray cluster instead, as in auto, host:6379, or local")
    _add(group, "out", str, "DIR", "folder (default: a new one under runs/); what it holds already is not done again")
    group.add_argument("--resume", action="store_true", help="without --out: go on with the newest unfinished one")
    group.add_argument("--retry-failed", action="store_true", help="try again what failed before")
    group.add_argument("--no-report", action="store_true", help="no HTML, no figures")
    group.add_argument("--quiet", action="store_true", help="no progress, no table")
    group.add_argument("--json", action="store_true", help="print comparison.json")


def run_compare(args: argparse.Namespace) -> int:
    """`rlprune compare`."""
    from rlprune.agents.compare.comparison import compare, newest_unfinished
    from rlprune.record import free_folder

    settings = compare_settings(args)
    quiet, as_json = hasattr(args, "quiet"), hasattr(args, "json")
    folder = Path(args.out) if hasattr(args, "out") else None
    if folder is None and hasattr(args, "resume"):
        folder = newest_unfinished([Path("runs")])
    folder = folder or free_folder("runs", settings.name)
    content = compare(
        settings,
        folder,
        workers=getattr(args, "workers", 1),
        ray=getattr(args, "ray", None),
        retry_failed=hasattr(args, "retry_failed"),
        command=shlex.join(["rlprune", *sys.argv[1:]]),
        watcher=None if quiet else Progress(),
    )
    if not hasattr(args, "no_report"):
        write_report_files(folder)
    if as_json:
        print(json.dumps(content, indent=2))
    elif not quiet:
        print_comparison(content["analysis"], console())
        print(f"Written to {folder}" + ("" if hasattr(args, "no_report") else f"; open {folder / 'report.html'}"))
    return 0


def compare_settings(args: argparse.Namespace) -> CompareSettings:
    """The settings that the options say."""
    given = {name: getattr(args, name) for name in ("controllers", "models", "data", "seeds") if hasattr(args, name)}
    goals = {name: getattr(args, name) for name in ("budgets", "tolerances") if hasattr(args, name)}
    controllers = given.get("controllers", CompareSettings(budgets=DEFAULT_BUDGETS).controllers)
    baseline = getattr(args, "baseline", "uniform" if "uniform" in controllers else controllers[0])
    problem = _given(args, ProblemSpec(), ("root", "device", "control_from", "control_size", "calibration_size"))
    problem = _given(args, problem, ("min_channels", "round_to"))
    if hasattr(args, "keep"):
        problem = replace(problem, keep=tuple(args.keep))
    rules = ("criterion", "recovery", "max_rate", "round_rate", "rounds", "skip", "repair_epochs", "evaluations")
    play = replace(_given(args, PlaySettings(), rules), options=_options(getattr(args, "set", [])))
    training = ("finetune", "finetune_lr", "scratch", "scratch_epochs", "scratch_lr", "batch_size")
    tune = TuneSettings(**{name: getattr(args, name) for name in training if hasattr(args, name)})
    return CompareSettings(
        **given, **(goals or {"budgets": DEFAULT_BUDGETS}), baseline=baseline, problem=problem, play=play, tune=tune
    )


class Progress:
    """Says on the error stream what has ended, and when the rest may have."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._before: int | None = None

    def __call__(self, comparison: Any, job: Job, result: Result) -> None:
        """A stage has ended."""
        if self._before is None:
            self._before = comparison.done - 1
        done = comparison.done - self._before
        left = (time.monotonic() - self._started) / max(done, 1) * (comparison.total - comparison.done)
        if result.content["status"] == "failed":
            outcome = f"failed: {result.content['error']['message']}"
        else:
            found = result.content["pruned"]
            outcome = f"test {Unit.of(found).score(found['test_score'])}, {found['macs']:,} MACs"
        stage = "" if job.stage == "prune" else f" {job.stage}"
        number = f"{comparison.done}/{comparison.total}"
        print(f"{number:>9}  {job.cell.id}{stage}: {outcome}; about {duration(left)} left", file=sys.stderr, flush=True)


# --- report ---------------------------------------------------------------------------------------------------------


def configure_report(parser: argparse.ArgumentParser) -> None:
    """The options of `rlprune report`."""
    parser.add_argument("folder", metavar="FOLDER", help="a run, or a comparison")
    parser.add_argument("--out", metavar="FILE", help="the HTML file (default: FOLDER/report.html)")
    parser.add_argument("--figures", type=_names, metavar="LIST", help="formats of the figures (default: png,svg)")
    parser.add_argument("--no-figures", action="store_true", help="the HTML file alone")


def run_report(args: argparse.Namespace) -> int:
    """`rlprune report`."""
    folder = Path(args.folder)
    out = Path(args.out) if hasattr(args, "out") else None
    formats = () if hasattr(args, "no_figures") else getattr(args, "figures", ("png", "svg"))
    print(f"Written to {write_report_files(folder, out, formats)}")
    return 0


def write_report_files(folder: Path, out: Path | None = None, formats: tuple[str, ...] = ("png", "svg")) -> Path:
    """Write a folder's report, figures (into `figures/`) and TensorBoard events (into `tensorboard/`)."""
    from rlprune.report.content import load_content
    from rlprune.report.figures import write_events, write_figures
    from rlprune.report.html import write_report

    content = load_content(folder)
    if formats:
        write_figures(content, folder / "figures", formats)
        write_events(content, folder / "tensorboard")
    path = out or folder / "report.html"
    write_report(content, path)
    return path


# --- pareto ---------------------------------------------------------------------------------------------------------


def configure_pareto(parser: argparse.ArgumentParser) -> None:
    """The options of `rlprune pareto`."""
    parser.add_argument("folder", metavar="FOLDER", help="where runs and comparisons are, as in runs/")
    parser.add_argument(
        "--by",
        type=_names,
        metavar="LIST",
        help="score, macs, parameters, latency (default: the first three)",
    )
    parser.add_argument("--data", metavar="NAME", help="networks for this data set alone")
    parser.add_argument("--all", action="store_true", help="list the beaten ones too")
    parser.add_argument("--export", metavar="ID", help="export this network")
    parser.add_argument("--format", metavar="FORMAT", help="of the export: pt (default), pt2 or onnx")
    parser.add_argument("--out", metavar="FILE", help="of the export (default: pruned.FORMAT)")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run_pareto(args: argparse.Namespace) -> int:
    """`rlprune pareto`."""
    from rlprune.report.pareto import archive, choose, find_networks, print_networks

    networks = find_networks(Path(args.folder))
    if hasattr(args, "data"):
        known = sorted({network.data for network in networks})
        networks = [network for network in networks if network.data == args.data]
        if not networks:
            raise UserError(
                f"no network for data {args.data!r} in {args.folder}; there are: {', '.join(known) or 'none'}"
            )
    if hasattr(args, "export"):
        form = getattr(args, "format", "pt")
        path = Path(getattr(args, "out", f"pruned.{form}"))
        print(export_network(choose(networks, args.export), path, form))
        return 0
    best = archive(networks, getattr(args, "by", ("score", "macs", "parameters")))
    shown = networks if hasattr(args, "all") else best
    if hasattr(args, "json"):
        print(json.dumps([{**network.to_json(), "front": network in best} for network in shown], indent=2))
        return 0
    print_networks(shown, best, console())
    print(f"{len(best)} of {len(networks)} networks are beaten by no other. Export one with --export ID.")
    return 0


def export_network(network: Any, path: Path, form: str) -> str:
    """Write a network of the archive to a file, checked against itself; returns what to tell the user."""
    from rlprune.agents.compare.comparison import rebuild_cell
    from rlprune.agents.runs.replaying import rebuild
    from rlprune.artifact import export, save_pruned

    problem, pruned = rebuild(network.folder) if network.kind == "run" else rebuild_cell(network.folder, network.stage)
    if form == "pt":
        meta = {"model": problem.spec.model, "classes": list(problem.data.classes), "plan": pruned.plan.to_json()}
        save_pruned(path, problem.model, pruned.model, meta)
        return f"{path}: written as the README says how to load it"
    difference = export(pruned.model, problem.export_inputs, path, form)
    return f"{path}: same outputs as the network (relative difference {difference:.1e})"


# --- reading options ------------------------------------------------------------------------------------------------


def _add(group: argparse._ArgumentGroup, name: str, kind: Callable[[str], Any], metavar: str, text: str) -> None:
    group.add_argument(f"--{name}", dest=name.replace("-", "_"), type=kind, metavar=metavar, help=text)


def _names(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _integers(text: str) -> tuple[int, ...]:
    return tuple(_number(int, part, "a whole number") for part in _names(text))


def _numbers(text: str) -> tuple[float, ...]:
    return tuple(_number(float, part, "a number") for part in _names(text))


def _number(kind: Callable[[str], T], text: str, what: str) -> T:
    try:
        return kind(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not {what}") from None


def _given(args: argparse.Namespace, start: T, names: tuple[str, ...]) -> T:
    found = {name: getattr(args, name) for name in names if hasattr(args, name)}
    return replace(start, **found)  # type: ignore[type-var]


def _options(texts: list[str]) -> dict[str, dict[str, Any]]:
    """`prc.alpha=0.2` -> {"prc": {"alpha": 0.2}}; what is not JSON is text."""
    options: dict[str, dict[str, Any]] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        controller, dot, option = name.partition(".")
        if not (equals and dot and controller and option):
            raise UserError(f"--set is {text!r}; it must be CONTROLLER.OPTION=VALUE, as in prc.alpha=0.2")
        try:
            options.setdefault(controller, {})[option] = json.loads(value)
        except json.JSONDecodeError:
            options.setdefault(controller, {})[option] = value
    return options
