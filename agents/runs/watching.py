"""Who is told how a run gets on, and who keeps what it needs to go on."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

MEASURED = 1.0  # seconds of training after which its pace is told


class Watcher(Protocol):
    """Told how a run is getting on."""

    def round(self, line: Mapping[str, Any], base_macs: int, rounds_left: float | None) -> None:
        """A round has ended."""
        return

    def work(self, what: str, done: float = 0.0, total: float = 1.0, detail: str = "") -> None:
        """Something inside a round has got this far."""
        return

    def pace(self, seconds: float, epochs: float) -> None:
        """An epoch of training takes so many seconds now, and so many are left in the budget."""
        return


class Silent(Watcher):
    """A watcher that shows nothing."""


class Sink(Protocol):
    """Keeps a run's state and record as it goes, as a run folder does."""

    def load(self) -> Mapping[str, Any] | None:
        """The state of the last whole round, or None."""
        return None

    def save(self, state: Mapping[str, Any], rounds: list[dict[str, Any]]) -> None:
        """Keep the state after a round, and the record of all rounds so far."""
        return

    def cycle_file(self, name: str) -> Path | None:
        """Where a training of this name keeps its own state; None keeps none."""
        return None


class Nowhere(Sink):
    """A sink that keeps nothing."""


def follow(watcher: Watcher, epochs: float, left: float) -> Callable[[float], None]:
    """What tells a watcher of a training as it goes: how far it is, and what an epoch takes.

    Args:
        watcher: Who is told.
        epochs: Of this training.
        left: In the budget, before it.
    """
    what = f"training, {epochs:.3g} epochs"
    start: tuple[float, float] | None = None

    def step(done: float) -> None:
        nonlocal start
        now = time.monotonic()
        start = start or (done, now)  # one that goes on after a stop starts late
        watcher.work(what, done, 1.0)
        share, seconds = done - start[0], now - start[1]
        if share > 0 and (seconds > MEASURED or done >= 1.0):
            watcher.pace(seconds / (share * epochs), max(left - done * epochs, 0.0))

    return step


class Patience:
    """How long a run may still take: until its time is up, or somebody presses Ctrl-C.

    Once asks it to end with the round, so that `--resume` loses nothing; twice hands back the best network there is.
    Where nothing is kept, once hands it back too, since all would be lost.

    Args:
        minutes: From now on; None for no limit.
        watcher: Told of the first Ctrl-C.
        kept: Whether the run can go on later.
    """

    def __init__(self, minutes: float | None, watcher: Watcher, *, kept: bool) -> None:
        self.enough = 2 if kept else 1
        self.deadline = None if minutes is None else time.monotonic() + 60.0 * minutes
        self.watcher, self.asked = watcher, 0
        self._before: Any = None

    def __enter__(self) -> Patience:
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGINT, self._pressed)
        return self

    def __exit__(self, *_: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)

    def _pressed(self, number: int, frame: FrameType | None) -> None:
        self.asked += 1
        if self.asked > 1:
            raise KeyboardInterrupt
        now = "Ctrl-C again hands back the best network now"
        self.watcher.work(
            f"ending with this round; {now}" if self.enough > 1 else "ending with the best network so far"
        )

    @property
    def late(self) -> bool:
        """Whether the time is up."""
        return self.deadline is not None and time.monotonic() >= self.deadline
