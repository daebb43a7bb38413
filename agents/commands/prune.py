"""The subcommands that prune, train, replay and export; `rlprune.cli` looks them up when they are called."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
from dataclasses import MISSING, fields, replace
from pathlib import Path
from typing import Any

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
from rlprune.agents.controllers.base import RULES
from rlprune.agents.runs.basetraining import BaseSettings, train_base
from rlprune.agents.runs.recipes import METHODS
from rlprune.agents.runs.replaying import rebuild, replay
from rlprune.artifact import export
from rlprune.errors import UserError
from rlprune.record import RunFolder, free_folder, newest_unfinished, run_name, subject
from rlprune.recovery import TrainSettings
from rlprune.report.live import LiveRun
from rlprune.report.methods import print_constants, print_methods
from rlprune.report.summary import describe_scores, print_summary


def configure_prune(parser: argparse.ArgumentParser) -> None:
    """Options of `rlprune prune`."""
    problem_options(parser)
    group = parser.add_argument_group(
        "pruning", "The defaults are those of the method prc; `rlprune methods NAME` shows another method's."
    )
    group.add_argument(
        "--method",
        metavar="NAME",
        help=f"recipe that all other values come from unless given: {', '.join(METHODS.names())} (default: prc)",
    )
    recipe = METHODS.get("prc").settings
    field_options(group, PruneSettings, skip=("problem", "method", "controller_options", "finetune"), defaults=recipe)
    group = parser.add_argument_group("fine-tuning", "Training of the pruned network; the better of both is kept.")
    field_options(group, TrainSettings, prefix="finetune-", defaults=recipe.finetune)
    run_options(parser)
    rule_options(parser)


def rule_options(parser: argparse.ArgumentParser) -> None:
    """The options of all controllers that are rules, each behind its name."""
    for name in RULES.names():
        group = parser.add_argument_group(f"controller {name}")
        field_options(group, RULES.get(name), prefix=f"{name}-")


def given_rule_options(args: argparse.Namespace, controller: str) -> dict[str, Any]:
    """The options that were given for this controller; raises UserError if any was given for another one."""
    given = {name: given_fields(args, RULES.get(name), f"{name}-") for name in RULES.names()}
    for name, options in given.items():
        if options and name != controller:
            raise UserError(
                f"--{name}-{next(iter(options)).replace('_', '-')} is an option of the controller {name!r}, and this "
                f"run's is {controller!r}: leave it out, or choose the other controller or method"
            )
    return given.get(controller, {})


def _prune_settings(args: argparse.Namespace, start: PruneSettings) -> PruneSettings:
    """The settings of `start` (a recipe, or the run to go on with), changed by the options that were given."""
    given = given_fields(args, PruneSettings)
    if hasattr(args, "finetune_epochs"):
        given.setdefault("total_epochs", None)  # a recipe's total gives way to what was asked for
    controller = given.get("controller", start.controller)
    options = dict(start.controller_options) if controller == start.controller else {}
    options |= given_rule_options(args, controller)
    finetune = replace(start.finetune, **given_fields(args, TrainSettings, "finetune-"))
    return replace(
        start, **given, problem=problem_spec(args, start.problem), controller_options=options, finetune=finetune
    )


def run_prune(args: argparse.Namespace) -> int:
    """Prune a network."""
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
    quiet = hasattr(args, "quiet")
    with LiveRun(settings.tolerance, console(stderr=True), quiet=quiet) as live:
        record = prune(settings, folder, command=shlex.join(["rlprune", *sys.argv[1:]]), resume=resume, watcher=live)
    if as_json:
        print(json.dumps(record, indent=2))
    elif not quiet:
        print_summary(record, console())
        print(f"Written to {folder.path}")
    return 0


def configure_train(parser: argparse.ArgumentParser) -> None:
    """Options of `rlprune train`."""
    group = parser.add_argument_group("network and data")
    field_options(group, BaseSettings, skip=("training",))
    group = parser.add_argument_group("training")
    field_options(group, TrainSettings, defaults=BaseSettings().training)
    run_options(parser)


def run_train(args: argparse.Namespace) -> int:
    """Train a network."""
    resume, start = hasattr(args, "resume"), BaseSettings()
    if resume and hasattr(args, "out") and RunFolder(args.out).exists():
        start = BaseSettings.from_json(RunFolder(args.out).read()["settings"])
    training = replace(start.training, **given_fields(args, TrainSettings))
    settings = replace(start, **given_fields(args, BaseSettings), training=training)
    name = run_name(*subject(settings.model, settings.data), "base", f"s{settings.seed}")
    folder = RunFolder(args.out if hasattr(args, "out") else free_folder("runs", name))
    quiet = hasattr(args, "quiet") or int(os.environ.get("RANK", "0")) > 0
    with LiveRun(0.0, console(stderr=True), quiet=quiet) as live:
        record = train_base(
            settings, folder, command=shlex.join(["rlprune", *sys.argv[1:]]), resume=resume, on_step=live.work
        )
    if hasattr(args, "json"):
        print(json.dumps(record, indent=2))
    elif not quiet:
        print(f"{describe_scores(record)}\nWeights in {folder.model_file}")
    return 0


def configure_methods(parser: argparse.ArgumentParser) -> None:
    """Options of `rlprune methods`."""
    parser.add_argument("name", nargs="?", metavar="NAME", help="show the constants of one method")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run_methods(args: argparse.Namespace) -> int:
    """List the methods, or show one."""
    name = getattr(args, "name", None)
    if name is None:
        recipes = {name: METHODS.get(name) for name in METHODS.names()}
        if hasattr(args, "json"):
            print(json.dumps({name: recipe.summary for name, recipe in recipes.items()}, indent=2))
        else:
            print_methods({name: recipe.summary for name, recipe in recipes.items()}, console())
        return 0
    recipe = METHODS.get(name)
    found = _constants(recipe.settings, RULES.get(recipe.settings.controller))
    if hasattr(args, "json"):
        print(json.dumps(found, indent=2))
    else:
        print_constants(name, recipe.summary, found, console())
    return 0


def _constants(settings: PruneSettings, rule: Any) -> dict[str, Any]:
    """Option -> value for everything that makes up a method but its network and data."""
    skip = ("problem", "method", "controller_options", "finetune")
    found = {f.name: getattr(settings, f.name) for f in fields(settings) if f.name not in skip}
    for f in fields(rule):
        if f.default is not MISSING:
            found[f"{settings.controller}-{f.name}"] = settings.controller_options.get(f.name, f.default)
    found |= {f"finetune-{f.name}": getattr(settings.finetune, f.name) for f in fields(settings.finetune)}
    plain = {name: list(value) if isinstance(value, tuple) else value for name, value in found.items()}
    return {"--" + name.replace("_", "-"): value for name, value in plain.items()}


def configure_replay(parser: argparse.ArgumentParser) -> None:
    """Options of `rlprune replay`."""
    parser.add_argument("run_folder", metavar="RUN", help="a run folder written by `rlprune prune`")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run_replay(args: argparse.Namespace) -> int:
    """Rebuild a run from its record and check it."""
    found = replay(Path(args.run_folder))
    if hasattr(args, "json"):
        print(json.dumps(found, indent=2))
    else:
        for line in found["checks"]:
            print(f"{line['name']:16} recorded {line['recorded']}, replayed {line['replayed']}")
        print("The record holds.")
    return 0


def configure_export(parser: argparse.ArgumentParser) -> None:
    """Options of `rlprune export`."""
    parser.add_argument("run_folder", metavar="RUN", help="a run folder written by `rlprune prune`")
    parser.add_argument("--format", required=True, metavar="FORMAT", help="pt2 or onnx")
    parser.add_argument("--out", metavar="FILE", help="default: RUN/model.FORMAT")


def run_export(args: argparse.Namespace) -> int:
    """Export a run's network."""
    folder = Path(args.run_folder)
    problem, network = rebuild(folder)
    path = Path(args.out) if hasattr(args, "out") else folder / f"model.{args.format}"
    difference = export(network.model, problem.export_inputs, path, args.format)
    print(f"{path}: same outputs as the network (relative difference {difference:.1e})")
    return 0
