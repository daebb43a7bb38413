"""What a run says while it goes on."""

from io import StringIO

import pytest
from rich.console import Console

from rlprune.report import live
from rlprune.report.live import LiveRun
from rlprune.report.units import Unit


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


def lines_of(tolerance, *rounds, unit=None):
    out = StringIO()
    with LiveRun(tolerance, Console(file=out, width=80)) as run:
        if unit is not None:
            run.unit = unit
        for line in rounds:
            run.round({"round": 1, "accepted": True, "macs": 50, **line}, 100, None)
    return out.getvalue().splitlines()


def test_the_clock_and_the_spinner_go_on_after_a_piece_of_work_is_done():
    live_run = LiveRun(0.01, Console(file=StringIO(), force_terminal=True, width=100))
    with live_run:
        live_run.work("a[/red]", 0.5)
        live_run.work("a[/red]", 1.0)
        (task,) = live_run._progress.tasks
        assert not task.finished and task.completed == pytest.approx(1.0, abs=1e-5)
        live_run.work("more", 3.0, 3.0)
        assert not task.finished


def test_a_round_says_how_its_step_was_chosen_where_the_record_does(clock):
    plain, details = lines_of(
        0.01,
        {"drop": 0.004, "slack": 0.006, "healing_predicted": 0.15, "healing": 0.21, "bound_by": "tolerance"}
        | {"epochs": 2.5, "epochs_left": 31.0},
    )
    assert plain == "round   1  drop +0.40 of 1.00 points  MACs  50.0 %, 0m00s a round"
    assert details.strip() == "slack 0.60, healing 0.15 → 0.21, bound by tolerance, 2.5 epochs, 31 left"
    assert len(details) <= 80 and len(lines_of(0.01, {"drop": 0.004})) == 1


def test_the_time_to_the_end_of_the_budget_is_said_once_it_was_measured(clock):
    out = StringIO()
    with LiveRun(0.01, Console(file=out, width=100)) as run:
        run.pace(2.0, 60.0)
        run.pace(1.5, 50.0)
        run.round({"round": 1, "accepted": True, "macs": 50, "drop": 0.001, "epochs_left": 40.0}, 100, None)
    said = out.getvalue().splitlines()
    assert said[0] == "the 60 epochs of training that are left take 2m00s at most"
    assert said[1].endswith("MACs  50.0 %, at most 1m00s left") and len(said) == 3


def test_what_allows_everything_is_not_called_a_tolerance(clock):
    assert " of " not in lines_of(1.0, {"drop": 0.4})[0] and " of " not in lines_of(None, {"drop": 0.4})[0]


def test_other_metrics_are_shown_in_their_own_units(clock):
    (line,) = lines_of(1.5, {"drop": 0.52}, unit=Unit("psnr", percent=False))
    assert "drop +0.52 of 1.5 psnr" in line
    assert line == lines_of(1.5, {"drop": 0.52, "metric": "psnr", "percent": False})[0]


def test_nothing_but_plain_text_comes_out_without_a_terminal(clock):
    out = StringIO()
    with LiveRun(0.01, Console(file=out, width=80)) as run:
        run.work("training", 0.5)
        clock[0] += 100.0
        run.work("training", 0.6, detail="[bold]x[/bold]")
        run.round({"round": 1, "accepted": False, "macs": 50, "drop": 0.1}, 100, 3.0)
    assert "\x1b" not in out.getvalue() and "[bold]x[/bold]" in out.getvalue()


def test_a_notebook_gets_plain_text(clock):
    out = StringIO()
    notebook = Console(file=out, force_jupyter=True)
    with LiveRun(0.01, notebook) as run:
        run.round({"round": 1, "accepted": True, "macs": 50, "drop": 0.1}, 100, 3.0)
    assert out.getvalue().startswith("round   1") and "\x1b" not in out.getvalue()
