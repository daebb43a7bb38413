"""What a run says while it goes on."""

from io import StringIO

import pytest
from rich.console import Console

from rlprune.report import live
from rlprune.report.live import LiveRun


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands until it is moved."""
    now = [1000.0]
    monkeypatch.setattr(live.time, "monotonic", lambda: now[0])
    return now


def test_without_a_terminal_long_work_says_once_a_minute_how_long_it_will_take(clock):
    out = StringIO()
    with LiveRun(0.02, Console(file=out, width=120)) as run:
        for step in range(1, 41):
            clock[0] += 10.0
            run.work("training", step, 40, "loss 0.5")
    lines = out.getvalue().splitlines()
    assert len(lines) == 6
    assert lines[0] == "training:  15 %, loss 0.5, about 5m40s left"  # 34 steps of 10 s


def test_the_time_left_is_that_of_the_work_at_hand(clock):
    out = StringIO()
    with LiveRun(0.02, Console(file=out, width=120)) as run:
        for what, pace in (("training", 100.0), ("fine-tuning", 1000.0)):
            for step in range(3):
                clock[0] += pace
                run.work(what, step, 4)
    assert out.getvalue().splitlines() == [
        "training:  25 %, about 5m00s left",
        "training:  50 %, about 3m20s left",
        "fine-tuning:  25 %, about 50m00s left",
        "fine-tuning:  50 %, about 33m20s left",
    ]


def test_the_same_work_in_the_next_round_is_timed_anew(clock):
    out = StringIO()
    with LiveRun(0.02, Console(file=out, width=120)) as run:
        for _ in range(2):
            for step in range(1, 4):
                clock[0] += 100.0
                run.work("repair", step, 4)
            clock[0] += 5000.0
    line = "repair:  75 %, about 1m40s left"
    assert out.getvalue().splitlines().count(line) == 2


def test_quiet_says_nothing(clock):
    out = StringIO()
    with LiveRun(0.02, Console(file=out, width=120), quiet=True) as run:
        for step in range(5):
            clock[0] += 100.0
            run.work("training", step, 5)
    assert out.getvalue() == ""


@pytest.mark.parametrize(("seconds", "text"), [(5.9, "0m05s"), (184.0, "3m04s"), (3725.0, "1h02m")])
def test_durations_are_short(seconds, text):
    assert live.duration(seconds) == text
