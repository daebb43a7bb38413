"""The live display of a run: a line that moves on a terminal, a line per round elsewhere."""

from __future__ import annotations

import time
from types import TracebackType
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, TextColumn, TimeElapsedColumn

if TYPE_CHECKING:
    from typing_extensions import Self

EVERY = 60.0  # seconds between two lines about one piece of work, where there is no bar


class Live:
    """A progress bar while a `with` block runs, on a terminal only.

    Args:
        columns: What rich shows from left to right.
        console: Where to print.
        quiet: Show nothing.

    Attributes:
        lines: Whether there is no bar, and a line now and then is to say how far things are.
    """

    def __init__(self, *columns: ProgressColumn, console: Console, quiet: bool = False) -> None:
        self.console, self.quiet = console, quiet
        self.lines = not quiet and not console.is_terminal
        hidden = quiet or not console.is_terminal
        self._progress = Progress(*columns, console=console, transient=True, disable=hidden)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()


class LiveRun(Live):
    """Shows the round, the drop against the tolerance, the MACs left, and an estimate of the time left.

    The estimate is the mean time of a round times the rounds still expected; where nobody can know how many rounds
    there will be, since the tolerance ends the run, it is the time of a round alone.

    Args:
        tolerance: The drop allowed.
        console: Where to print.
        quiet: Show nothing.
    """

    def __init__(self, tolerance: float, console: Console, *, quiet: bool = False) -> None:
        super().__init__(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
            console=console,
            quiet=quiet,
        )
        self.tolerance = tolerance
        self._task = self._progress.add_task("starting", total=1.0, note="")
        self._started = self._told = time.monotonic()
        self._rounds_before: int | None = None
        self._work, self._begun, self._from, self._done = "", self._started, 0.0, 0.0

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
        self._progress.update(self._task, description=what, completed=done, total=total, note=note)
        if left and self.lines and now >= self._told + EVERY:
            self._told = now
            self.console.print(f"{what}: {100 * done / total:3.0f} %, {note}", highlight=False)

    def round(self, line: dict[str, Any], base_macs: int, rounds_left: float | None) -> None:
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
        spent = time.monotonic() - self._started
        each = spent / max(line["round"] - self._rounds_before, 1)
        eta = f", {duration(each)} a round" if rounds_left is None else f", about {duration(each * rounds_left)} left"
        verdict = "" if line["accepted"] else " (rolled back)"
        text = (
            f"round {line['round']:>3}  drop {100 * line['drop']:+.2f} of {100 * self.tolerance:.2f} points  "
            f"MACs {100 * line['macs'] / base_macs:5.1f} %{verdict}{eta}"
        )
        self.console.print(text, highlight=False)


def duration(seconds: float) -> str:
    """As in `1h02m` or `3m04s`."""
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}m" if hours else f"{minutes}m{seconds:02d}s"
