"""Layout and precision: chosen by timing where that pays, recorded, and the same again on resume."""

from __future__ import annotations

import importlib.util
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from rlprune.errors import UserError
from rlprune.recovery import TrainSettings, train
from rlprune.scoring.pace import Pace
from rlprune.tasks import get_task
from rlprune.tasks.base import cut
from rlprune.training import pacing
from rlprune.training.pacing import choose_pace, fastest

_spec = importlib.util.spec_from_file_location("pacing_toys", Path(__file__).with_name("toys.py"))
toys = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(toys)

TASK, CPU = get_task("classification"), torch.device("cpu")
FAST = TrainSettings(epochs=2, lr=0.05, batch_size=32, augment=False)
USUAL, OTHER = Pace("channels_last"), Pace("contiguous")


class Viewing(nn.Module):
    """Takes no channels-last input."""

    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(1, 4, 3, padding=1), nn.Linear(4 * 64, 3)

    def forward(self, x):
        return self.head(self.conv(x).view(len(x), -1))


def run(settings=FAST, model=None, **options):
    model = model or toys.small_network()
    return model, train(model, TASK, toys.shapes_split(), settings, seed=0, **options)


def batch():
    return next(iter(toys.shapes_split().batches(32)))


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_a_layout_that_was_asked_for_is_taken_and_changes_no_result(layout):
    model, report = run(replace(FAST, layout=layout, amp=False))
    usual, _ = run()
    assert (report.layout, report.amp) == (layout, False)
    for value, other in zip(model.state_dict().values(), usual.state_dict().values(), strict=True):
        torch.testing.assert_close(value, other, atol=1e-4, rtol=1e-3)
    assert all(p.is_contiguous() for p in model.parameters())


class Three(nn.Module):
    """Looks at three images at once."""

    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(1, 4, 3, padding=1), nn.Linear(12, 3)

    def forward(self, first, second, third):
        return self.head(torch.cat([self.conv(image).mean((2, 3)) for image in (first, second, third)], 1))


def test_a_network_of_several_images_is_tried_with_all_of_them():
    images, labels = batch()
    assert choose_pace(Three(), TASK, ((images, images, images), labels), FAST, CPU, steps=1) == USUAL


def test_some_examples_of_a_batch_are_some_of_every_part():
    images, labels = batch()
    inputs, targets = cut(((images, {"mask": images}), (labels, labels)), slice(1, None, 2))
    assert all(torch.equal(part, images[1::2]) for part in (inputs[0], inputs[1]["mask"]))
    assert all(torch.equal(part, labels[1::2]) for part in targets)
    inputs, targets = cut((tuple(images), [{"labels": label} for label in labels]), slice(2))  # a detector's
    assert [image.shape for image in inputs] == [images[0].shape] * 2 and len(targets) == 2


def test_short_runs_are_not_timed(monkeypatch):
    monkeypatch.setattr(pacing, "fastest", None)
    _, report = run()
    assert (report.layout, report.amp) == ("channels_last", False)


def test_long_runs_take_what_is_clearly_faster():
    def loss(network, given):
        until = time.process_time() + (0.01 if given[0].is_contiguous() else 0.03)
        while time.process_time() < until:
            pass
        return network(given[0]).sum()

    images = torch.randn(8, 3, 8, 8)
    model = nn.Conv2d(3, 4, 3)
    assert fastest(model, loss, (images, None), (USUAL, OTHER), CPU) == OTHER
    assert fastest(model, loss, (images, None), (OTHER, USUAL), CPU) == OTHER
    assert fastest(model, loss, (images, None), (USUAL, OTHER), CPU, gain=0.01) == USUAL


def test_timing_leaves_network_and_random_streams_alone():
    model, drawn = toys.small_network(), torch.random.get_rng_state()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    choose_pace(model, TASK, batch(), FAST, CPU)
    assert torch.equal(torch.random.get_rng_state(), drawn)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_a_timed_run_is_the_run_that_asks_for_the_same(monkeypatch, smoothing):
    monkeypatch.setattr(pacing, "WORTH", 0)
    settings = replace(FAST, label_smoothing=smoothing)
    timed, report = run(settings)
    told, _ = run(replace(settings, layout=report.layout, amp=report.amp))
    assert all(torch.equal(a, b) for a, b in zip(timed.parameters(), told.parameters(), strict=True))


def test_what_goes_on_keeps_the_choice(tmp_path, monkeypatch, Killed):
    def die(done):
        if done > 0.6:
            raise Killed

    monkeypatch.setattr(pacing, "fastest", lambda *_: OTHER)
    monkeypatch.setattr(pacing, "WORTH", 0)
    whole, _ = run()
    with pytest.raises(Killed):
        run(checkpoint=tmp_path / "run.pt", on_step=die)
    monkeypatch.setattr(pacing, "fastest", lambda *_: USUAL)
    resumed, report = run(checkpoint=tmp_path / "run.pt")
    assert report.layout == "contiguous"
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))


def test_a_network_that_takes_no_channels_last():
    _, report = run(model=Viewing())
    assert report.layout == "contiguous"
    with pytest.raises(UserError, match="layout"):
        run(replace(FAST, layout="channels_last"), Viewing())


@pytest.mark.parametrize(("given", "meant"), [("on", True), ("off", False), ("auto", "auto"), (True, True)])
def test_words_for_mixed_precision(given, meant):
    assert TrainSettings(amp=given).amp == meant


@pytest.mark.parametrize(("name", "value"), [("amp", "yes"), ("layout", "channels-last")])
def test_unknown_words_are_told(name, value):
    with pytest.raises(UserError, match="known: auto"):
        TrainSettings(**{name: value})
