"""`rlprune sensitivity`."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from rlprune.agents.commands.options import Run, Section, check_resumed, command_line, folder_to_resume, parse
from rlprune.agents.commands.prune import spec_of
from rlprune.errors import UserError, check_count, check_rate, reading
from rlprune.files import read_json, write_json, write_text
from rlprune.importing import print_json
from rlprune.locking import locked
from rlprune.record import RunFolder, free_folder, run_name, subject
from rlprune.spec import ProblemSpec
from rlprune.typed import as_table, from_table

COMMON = {"model", "data", "weights", "seed", "device", "criterion", "recovery", "rates", "groups", "limit", "amp",
          "out", "resume", "quiet", "json"}  # fmt: skip
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
    rates: tuple[float, ...] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
    groups: tuple[str, ...] = ()
    limit: int | None = None
    amp: bool = False

    def __post_init__(self) -> None:
        for rate in self.rates:
            check_rate("--rates", rate)
        if not self.rates:
            raise UserError("--rates names no rate; give at least one in [0, 1]")
        if len(set(self.rates)) < len(self.rates):
            raise UserError(f"--rates has {max(self.rates, key=self.rates.count)} twice; give each once")
        check_count("--limit", self.limit)

    @property
    def title(self) -> str:
        """For the picture, and as the folder's name."""
        words = subject(self.problem.model, self.problem.data)
        return run_name("scan", *words, self.criterion, f"s{self.problem.seed}")

    def chosen(self, names: Iterable[str]) -> list[str]:
        """Of the names of groups that can be pruned those to scan."""
        names = list(names)
        for pattern in self.groups:
            if not fnmatch.filter(names, pattern):
                raise UserError(f"--groups {pattern!r} is the name of no group that can be pruned: see rlprune inspect")
        return [name for name in names if not self.groups or any(fnmatch.fnmatchcase(name, p) for p in self.groups)]

    def to_json(self) -> dict[str, Any]:
        """Plain values only."""
        return as_table(self)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> ScanSettings:
        """The settings that `to_json` wrote."""
        return from_table(cls, content, "the settings")


def sensitivity(argv: Sequence[str], about: str, examples: str) -> int:
    """Scan a network; writes the scan, a picture of it, and what is needed to go on with it."""
    folder, start = folder_to_resume(argv), ScanSettings()
    begun = folder is not None and (folder / SETTINGS).exists()
    if folder is not None and begun:
        with reading(folder / SETTINGS, "the settings of a scan"):
            start = ScanSettings.from_json(read_json(folder / SETTINGS))
        check_resumed(folder / SETTINGS, [start.problem], argv)
    sections = [Section(ProblemSpec, default=start.problem), Section(ScanSettings, default=start), Section(Run)]
    given = parse("sensitivity", sections, argv, common=COMMON, about=about, examples=examples)
    own = {item.name: given[item.name] for item in fields(ScanSettings) if item.name in given}
    settings = replace(start, **own, problem=spec_of(given))
    if begun and settings != start:
        raise UserError(f"the scan in {folder} was started with other settings; --resume takes none of its own")
    out = _folder(given["out"], begun, settings)
    with locked(out, SETTINGS):
        _scan(settings, out, given)
    return 0


def _folder(out: str | None, begun: bool, settings: ScanSettings) -> Path:
    """Where the scan goes."""
    if out is None:
        return free_folder("runs", settings.title)
    folder = Path(out)
    if not begun and (folder / SETTINGS).exists():
        raise UserError(f"{folder} holds a scan already; add --resume to go on with it, or choose another --out")
    return folder


def _scan(settings: ScanSettings, folder: Path, given: Mapping[str, Any]) -> None:
    """Scan, write, and say what was found."""
    from rich.console import Console  # from here on it may take its time

    from rlprune.agents.commands.progress import Tenths
    from rlprune.criteria import get_criterion
    from rlprune.recovery import make_recovery
    from rlprune.report import plots
    from rlprune.report.scans import draw_scan, print_scan
    from rlprune.report.units import Unit
    from rlprune.scoring.sensitivity import scan

    get_criterion(settings.criterion)
    make_recovery(settings.recovery)
    problem = settings.problem.build()
    names = settings.chosen(group.name for group in problem.groups.prunable)
    RunFolder(folder).clear_remains()
    write_json(folder / SETTINGS, settings.to_json())
    write_text(folder / "command.txt", command_line() + "\n")
    how: dict[str, Any] = {name: getattr(settings, name) for name in ("criterion", "recovery", "rates", "limit", "amp")}
    with Tenths("scan", quiet=given["quiet"]) as bar:
        seed, path = settings.problem.seed, folder / SCAN
        found = scan(problem, groups=names, seed=seed, path=path, on_step=bar.step, **how)
    write_json(folder / SCAN, found.to_json())
    unit = Unit.of(problem.evaluator.score(problem.model, "control", 1).figures("control"))
    plots.save(draw_scan(found, settings.title, unit), folder / PICTURE)
    if given["json"]:
        print_json(found.to_json())
    elif not given["quiet"]:
        print_scan(found, Console(), unit)
        print(f"Written to {folder}")
