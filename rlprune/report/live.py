"""The live display of a run: a line that moves on a terminal, plain lines elsewhere, such as in a notebook or a log."""

from __future__ import annotations

import time
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, TextColumn, TimeElapsedColumn

from rlprune.report.tables import say
from rlprune.report.units import Unit

if TYPE_CHECKING:
    from typing_extensions import Self

EVERY = 60.0  # seconds between two lines about one piece of work, where there is no bar


class Live:
    """A progress bar while a `with` block runs, on a terminal only.

    Args:
        columns: What rich shows from left to right.
        console: Where to print; None is the error stream, or a notebook's output.
        quiet: Show nothing.

    Attributes:
        lines: Whether there is no bar, and a line now and then is to say how far things are.
    """

    def __init__(self, *columns: ProgressColumn, console: Console | None = None, quiet: bool = False) -> None:
        self.console, self.quiet = console or Console(stderr=True), quiet
        if self.console.is_jupyter:  # plain text, and not a cell of HTML for every line
            self.console = Console(file=self.console.file, force_jupyter=False, force_terminal=False, width=100)
        self.lines = not quiet and not self.console.is_terminal
        self._progress = Progress(*columns, console=self.console, transient=True, disable=quiet or self.lines)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()


class LiveRun(Live):
    """Shows the round, the drop against the tolerance, the MACs left, and an estimate of the time left.

    The estimate is the budget of epochs that is left at the pace of the latest training. Without training it is the
    mean time of a round times the rounds still expected, or, where nobody can know how many, the time of a round alone.

    Args:
        tolerance: The drop allowed; None where there is no limit.
        console: Where to print; None is the error stream, or a notebook's output.
        quiet: Show nothing.

    Attributes:
        unit: How scores are written; set it when the metric is known. A round's record that has a `metric` goes first.
    """

    def __init__(self, tolerance: float | None, console: Console | None = None, *, quiet: bool = False) -> None:
        super().__init__(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[note]}", markup=False),
            TimeElapsedColumn(),
            console=console,
            quiet=quiet,
        )
        self.tolerance, self.unit = tolerance, Unit()
        self._task = self._progress.add_task("starting", total=1.0, note="")
        self._started = self._told = time.monotonic()
        self._rounds_before: int | None = None
        self._work, self._begun, self._from, self._done = "", self._started, 0.0, 0.0
        self._epoch: float | None = None  # seconds that one takes

    def work(self, what: str, done: float = 0.0, total: float = 1.0, detail: str = "") -> None:
        """Say what is going on inside a round, such as a training, how far it is, and the time it will still take.

        Where there is no terminal, and so no bar, it is a line a minute at most.
        """
        now = time.monotonic()
        if what != self._work or done < self._done:  # something else, or the same once more
            self._work, self._begun, self._from = what, now, done
        self._done = done
        fresh = done - self._from
        left = f"about {duration((now - self._begun) * (total - done) / fresh)} left" if fresh > 0.0 else ""
        note = ", ".join(part for part in (detail, left) if part)
        # A task that is complete stops clock and spinner for good, and the run goes on: never quite complete.
        share = min(done / total, 1.0 - 1e-6) if total else 0.0
        self._progress.update(self._task, description=what, completed=share, note=note)
        if left and self.lines and now >= self._told + EVERY:
            self._told = now
            say(self.console, f"{what}: {100 * done / total:3.0f} %, {note}")

    def pace(self, seconds: float, epochs: float) -> None:
        """Keep what an epoch of training takes; the first time, say what those that are left will take."""
        if self._epoch is None and epochs > 0 and not self.quiet:
            most = duration(seconds * epochs)
            say(self.console, f"the {epochs:.3g} epochs of training that are left take {most} at most")
        self._epoch = seconds

    def round(self, line: Mapping[str, Any], base_macs: int, rounds_left: float | None) -> None:
        """Say how a round ended.

        Args:
            line: The round's record.
            base_macs: MACs of the unpruned network.
            rounds_left: Rounds still expected, or None if nobody can know.
        """
        if self._rounds_before is None:
            self._rounds_before = line["round"] - 1  # a resumed run starts late
        if self.quiet:
            return
        eta = self._eta(line, rounds_left)
        unit = Unit.of(line) if "metric" in line else self.unit
        drop = unit.number(line["drop"], sign=True)
        if self.tolerance is not None and unit.limits(self.tolerance):
            drop += f" of {unit.number(self.tolerance)}"
        verdict = "" if line["accepted"] else " (rolled back)"
        macs = f"MACs {100 * line['macs'] / base_macs:5.1f} %"
        say(self.console, f"round {line['round']:>3}  drop {drop} {unit.differences}  {macs}{verdict}, {eta}")
        details = ", ".join(control_details(line, unit))
        if details:
            say(self.console, f"    {details}")

    def _eta(self, line: Mapping[str, Any], rounds_left: float | None) -> str:
        """The time to the end of the budget of epochs; else by rounds."""
        if self._epoch is not None and line.get("epochs_left") is not None:
            return f"at most {duration(self._epoch * line['epochs_left'])} left"
        each = (time.monotonic() - self._started) / max(line["round"] - (self._rounds_before or 0), 1)
        return f"{duration(each)} a round" if rounds_left is None else f"about {duration(each * rounds_left)} left"


def control_details(line: Mapping[str, Any], unit: Unit) -> list[str]:
    """What a round's record says of how its step was chosen, as far as it says it."""
    found = []
    if line.get("slack") is not None:
        found.append(f"slack {unit.number(line['slack'])}")
    seen = [f"{line[key]:.2f}" for key in ("healing_predicted", "healing") if line.get(key) is not None]
    if seen:
        found.append(f"healing {' → '.join(seen)}{' expected' if line.get('healing') is None else ''}")
    if line.get("bound_by"):
        found.append(f"bound by {line['bound_by']}")
    if line.get("epochs") is not None:
        found.append(f"{line['epochs']:.3g} epochs")
    if line.get("epochs_left") is not None:
        found.append(f"{line['epochs_left']:.3g} left")
    return found


def duration(seconds: float) -> str:
    """As in `1h02m` or `3m04s`."""
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}m" if hours else f"{minutes}m{seconds:02d}s"
