"""A teacher that is asked once: the same weights come out, and looks at the data come back."""

from __future__ import annotations

import copy
import importlib.util
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from rlprune.recovery import TrainSettings, train
from rlprune.scoring.pace import Pace
from rlprune.tasks import get_task
from rlprune.training.imitation import MEMORY, Teacher

_spec = importlib.util.spec_from_file_location("training_toys", Path(__file__).with_name("toys.py"))
toys = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(toys)

TASK = get_task("classification")
SETTINGS = TrainSettings(epochs=5, lr=0.05, batch_size=32, augment=True, distillation=0.9)
STEPS = 3  # of an epoch: 96 images


class Forgetful(Teacher):
    """It takes the same looks and is asked every time."""

    def rows(self, task, batch, pace):
        self._known.clear()
        return super().rows(task, batch, pace)


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def asked(teacher):
    """Counts the teacher's forward passes."""
    calls = []
    teacher.network.register_forward_hook(lambda *_: calls.append(1))
    return calls


def trained(teacher, settings=SETTINGS, seed=0):
    student = toys.small_network(seed=5)
    train(student, TASK, toys.shapes_split(), settings, seed=seed, teacher=teacher)
    return student


def test_it_is_asked_once_for_every_look_and_the_weights_are_the_same_bits():
    teacher, forgetful = Teacher(toys.small_network(), looks=2), Forgetful(toys.small_network(), looks=2)
    calls, every = asked(teacher), asked(forgetful)
    student, other = trained(teacher), trained(forgetful)
    assert len(calls) == 2 * STEPS and len(every) == 5 * STEPS
    assert same(student, other)


def test_looks_come_back_in_the_next_training_whatever_its_seed():
    teacher = Teacher(toys.small_network(), looks=2)
    trained(teacher)
    calls = asked(teacher)
    trained(teacher, replace(SETTINGS, epochs=2), seed=7)
    assert not calls


def test_a_run_that_goes_on_from_a_file_and_has_forgotten_all_ends_in_the_same_bits(tmp_path):
    def teacher():
        return Teacher(toys.small_network(), looks=2)

    whole = trained(teacher())
    student, split, file = toys.small_network(seed=5), toys.shapes_split(), tmp_path / "state.pt"

    class Cut(Exception):
        pass

    def cut(share):
        if share > 3.5 / 5:
            raise Cut

    with pytest.raises(Cut):
        train(student, TASK, split, SETTINGS, seed=0, teacher=teacher(), checkpoint=file, on_step=cut)
    again = toys.small_network(seed=5)
    train(again, TASK, split, SETTINGS, seed=0, teacher=teacher(), checkpoint=file)
    assert same(again, whole)


def test_without_looks_it_is_a_plain_network():
    plain, teacher = toys.small_network(), Teacher(toys.small_network())
    calls = asked(teacher)
    assert same(trained(copy.deepcopy(plain)), trained(teacher))
    assert len(calls) == 5 * STEPS


def test_other_inputs_are_answered_anew():
    teacher, batch = Teacher(toys.small_network(), looks=1), next(toys.shapes_split().batches(8))
    teacher.network.eval()
    first = teacher.rows(TASK, batch, Pace())
    changed = (batch[0].clone(), batch[1])
    changed[0][0, 0, 0, 0] += 1.0
    other = teacher.rows(TASK, changed, Pace())
    assert teacher.rows(TASK, batch, Pace()) is first and not torch.equal(first, other)


def test_looks_come_back_in_long_runs_that_fit_in_memory():
    """A network that sees the same few looks again and again learns them."""
    network, fits = toys.small_network(), MEMORY // (4 * 40)  # numbers an epoch, of forty looks
    assert Teacher.of_run(network, 120, fits, seed=0).looks == 40
    assert Teacher.of_run(network, 120, fits + 1, seed=0).looks == 0
    assert Teacher.of_run(network, 60, fits, seed=0).looks == 0
