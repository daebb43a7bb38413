"""The subcommand that scans a network's sensitivity; `rlprune.cli` looks it up."""

from __future__ import annotations

import argparse
import fnmatch
import json
import shlex
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from rlprune.agents.commands.options import (
    console,
    field_options,
    given_fields,
    problem_options,
    problem_spec,
    run_options,
)
from rlprune.channels import ChannelGroups
from rlprune.criteria import get_criterion
from rlprune.errors import UserError, check_rate
from rlprune.files import read_json, write_json, write_text
from rlprune.record import RunFolder, free_folder, run_name, subject
from rlprune.recovery import make_recovery
from rlprune.report import plots
from rlprune.report.live import Live
from rlprune.report.scans import draw_scan, print_scan
from rlprune.scoring.sensitivity import RATES, scan
from rlprune.spec import ProblemSpec

SCAN, SETTINGS, PICTURE = "sensitivity.json", "settings.json", "sensitivity.png"


@dataclass(frozen=True)
class ScanSettings:
    """What to scan, in plain values.

    Attributes:
        problem: Network and data.
        criterion: Name of the filter ranking.
        recovery: Names of the repairs after each removal, joined by `+`; with `none` and `lsq` nothing that comes
            before the pruned group is computed twice.
        rates: Shares of a group to remove, each by itself.
        groups: Patterns of the groups to scan, such as `layer3.*`; none takes all that can be pruned.
        limit: Control images to score on; None takes all.
        amp: Score in bfloat16: up to three times as fast on processors with instructions for it, and drops that differ
            by up to some half a point.
    """

    problem: ProblemSpec = field(default_factory=ProblemSpec)
    criterion: str = "l1"
    recovery: str = "none"
    rates: tuple[float, ...] = RATES
    groups: tuple[str, ...] = ()
    limit: int | None = None
    amp: bool = False

    def __post_init__(self) -> None:
        get_criterion(self.criterion)
        make_recovery(self.recovery)
        for rate in self.rates:
            check_rate("--rates", rate)
        if not self.rates:
            raise UserError("--rates names no rate; give at least one in [0, 1]")
        if self.limit is not None and self.limit < 1:
            raise UserError(f"--limit is {self.limit}; it must be at least 1")

    @property
    def title(self) -> str:
        """For the picture, and as the folder's name."""
        words = subject(self.problem.model, self.problem.data)
        return run_name("scan", *words, self.criterion, f"s{self.problem.seed}")

    def chosen(self, groups: ChannelGroups) -> list[str]:
        """The names of the groups to scan."""
        names = [group.name for group in groups.prunable]
        for pattern in self.groups:
            if not fnmatch.filter(names, pattern):
                raise UserError(f"--groups {pattern!r} is the name of no group that can be pruned: see rlprune inspect")
        return [name for name in names if not self.groups or any(fnmatch.fnmatchcase(name, p) for p in self.groups)]

    def to_json(self) -> dict[str, Any]:
        """Plain values only."""
        plain = {**asdict(self), "rates": list(self.rates), "groups": list(self.groups)}
        return {**plain, "problem": self.problem.to_json()}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> ScanSettings:
        """The settings that `to_json` wrote."""
        lists = {"rates": tuple(content["rates"]), "groups": tuple(content["groups"])}
        return cls(**{**content, **lists, "problem": ProblemSpec.from_json(content["problem"])})


def configure_sensitivity(parser: argparse.ArgumentParser) -> None:
    """Options of `rlprune sensitivity`."""
    problem_options(parser)
    field_options(parser.add_argument_group("scan"), ScanSettings, skip=("problem",), defaults=ScanSettings())
    run_options(parser)


def run_sensitivity(args: argparse.Namespace) -> int:
    """Scan a network; writes the scan, a picture of it, and what is needed to go on with it."""
    resume, quiet = hasattr(args, "resume"), hasattr(args, "quiet")
    if resume and not hasattr(args, "out"):
        raise UserError("--resume needs the folder of the scan: name it with --out")
    settings, folder = _settings(args, resume)
    problem = settings.problem.build()
    names = settings.chosen(problem.groups)
    RunFolder(folder).clear_remains()
    write_json(folder / SETTINGS, settings.to_json())
    write_text(folder / "command.txt", shlex.join(["rlprune", *sys.argv[1:]]) + "\n")
    with ScanProgress(console(stderr=True), quiet=quiet) as progress:
        found = scan(
            problem,
            criterion=settings.criterion,
            recovery=settings.recovery,
            rates=settings.rates,
            groups=names,
            limit=settings.limit,
            amp=settings.amp,
            seed=settings.problem.seed,
            path=folder / SCAN,
            on_step=progress.step,
        )
    write_json(folder / SCAN, found.to_json())
    plots.save(draw_scan(found, settings.title), folder / PICTURE)
    if hasattr(args, "json"):
        print(json.dumps(found.to_json(), indent=2))
    elif not quiet:
        print_scan(found, console())
        print(f"Written to {folder}")
    return 0


def _settings(args: argparse.Namespace, resume: bool) -> tuple[ScanSettings, Path]:
    """What was asked for, and where it goes."""
    folder = Path(args.out) if hasattr(args, "out") else None
    begun = folder is not None and (folder / SETTINGS).exists()
    if begun and not resume:
        raise UserError(f"{folder} holds a scan already; add --resume to go on with it, or choose another --out")
    if folder is not None and RunFolder(folder).exists():
        raise UserError(f"{folder} holds another kind of run, not a scan; choose another --out")
    start = ScanSettings()
    if folder is not None and begun:
        start = ScanSettings.from_json(read_json(folder / SETTINGS))
    settings = replace(start, **given_fields(args, ScanSettings), problem=problem_spec(args, start.problem))
    if begun and settings != start:
        raise UserError(f"the scan in {folder} was started with other settings; --resume takes none of its own")
    return settings, folder or free_folder("runs", settings.title)


class ScanProgress(Live):
    """A bar with the time left on a terminal, a line for every tenth elsewhere."""

    def __init__(self, console: Console, *, quiet: bool = False) -> None:
        super().__init__(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.percentage:3.0f} %"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            quiet=quiet,
        )
        self._told = 0.0
        self._task = self._progress.add_task("unpruned network", total=1.0)

    def step(self, group: str, done: float) -> None:
        """A score is about to be computed."""
        self._progress.update(self._task, description=group, completed=done)
        if self.lines and done >= self._told + 0.1:
            self._told = done
            self.console.print(f"{100 * done:3.0f} %  {group}", highlight=False)
