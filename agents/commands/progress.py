"""The progress of commands that are not a pruning: a bar with the time left on a terminal, ten lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from rich.progress import BarColumn, TextColumn

from rlprune.report.live import Live, duration
from rlprune.report.tables import say


class Tenths(Live):
    """A bar on a terminal, a line for every tenth elsewhere.

    Args:
        what: What goes on.
        quiet: Show nothing.
    """

    def __init__(self, what: str, *, quiet: bool = False) -> None:
        note = TextColumn("{task.fields[note]}", markup=False)  # a name of a group may have brackets
        columns = (TextColumn("{task.description}", markup=False), BarColumn(bar_width=24), note)
        super().__init__(*columns, quiet=quiet)
        self._task = self._progress.add_task(what, total=1.0, note="starting")
        self._started, self._before, self._told = time.monotonic(), -1.0, 0.0

    def step(self, note: str, done: float) -> None:
        """So far, a fraction in [0, 1]."""
        done, now = min(done, 1.0), time.monotonic()
        if self._before < 0:  # what is resumed starts late, so the clock starts with the first step seen
            self._before, self._started = done, now
        each = (now - self._started) / (done - self._before) if done > self._before else None
        note += "" if each is None else f", about {duration(each * (1.0 - done))} left"
        self._progress.update(self._task, completed=done, note=note)
        if self.lines and (done > self._told + 0.1 - 1e-9 or done >= 1.0 > self._told):
            self._told = done
            say(self.console, f"{100 * done:3.0f} %  {note}")


def episodes(bar: Tenths, steps: int, limit: int | None) -> Callable[[int, dict[str, Any]], None]:
    """What is told of every episode of a training.

    Args:
        bar: Where it is shown.
        steps: Time steps that the training takes at most.
        limit: Episodes that it takes at most, where that is what ends it.
    """
    best = -float("inf")

    def episode(count: int, line: dict[str, Any]) -> None:
        nonlocal best
        best = max(best, line["reward"])
        done = max(line["timesteps"] / max(steps, 1), 0.0 if limit is None else count / limit)
        bar.step(f"episode {count}, reward {line['reward']:+.3f}, best {best:+.3f}", done)

    return episode
