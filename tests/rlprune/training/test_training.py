"""Training: deterministic, resumable, and every setting does what it says."""

from __future__ import annotations

import copy
import importlib.util
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from rlprune.errors import UserError
from rlprune.recovery import TrainSettings, train
from rlprune.scoring.evaluation import Ledger
from rlprune.tasks import get_task
from rlprune.training.optimizers import make_optimizer
from rlprune.training.settings import learning_rate

_spec = importlib.util.spec_from_file_location("training_toys", Path(__file__).with_name("toys.py"))
toys = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(toys)

TASK = get_task("classification")
FAST = TrainSettings(epochs=2, lr=0.05, batch_size=32, augment=False)


def run(settings=FAST, model=None, seed=0, **options):
    model = model or toys.small_network()
    report = train(model, TASK, toys.shapes_split(), settings, seed=seed, **options)
    return model, report


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_it_learns(optimizer):
    lr = 0.05 if optimizer == "sgd" else 0.005
    model, report = run(replace(FAST, epochs=8, optimizer=optimizer, lr=lr))
    with torch.no_grad():
        score = TASK.score(model.eval(), toys.shapes_split(seed=1).batches(32))
    assert score.value > 0.95 and report.losses[-1] < 0.5 * report.losses[0]
    assert report.steps == 24 and report.images == 8 * 96


def test_equal_arguments_give_equal_bits_and_other_seeds_do_not():
    settings = replace(FAST, augment=True, orthogonality=1e-3, clip_norm=1.0, ema=0.9, label_smoothing=0.1)
    assert same(run(settings)[0], run(settings)[0])
    assert not same(run(settings)[0], run(settings, seed=1)[0])


def test_modes_and_hooks_are_put_back():
    model = toys.small_network().eval()
    model[1].train()
    run(model=model)
    assert model[1].training and not model[0].training and not model.training
    assert not model._forward_hooks


@pytest.mark.parametrize(("epochs", "steps"), [(0, 0), (0.01, 1), (0.5, 2), (1.34, 4), (2, 6)])
def test_fractions_of_epochs(epochs, steps):
    ledger, told = Ledger(), []
    _, report = run(replace(FAST, epochs=epochs), ledger=ledger, on_step=told.append)
    assert report.steps == steps and ledger.images_trained == 32 * steps
    assert told == [(i + 1) / steps for i in range(steps)]


def test_schedules():
    step = TrainSettings(epochs=4, lr=1.0, schedule="step", milestones=(1, 3), gamma=0.1)
    assert [learning_rate(step, s, 2) for s in range(8)] == pytest.approx([1, 1, 0.1, 0.1, 0.1, 0.1, 0.01, 0.01])
    warm = TrainSettings(epochs=2, lr=1.0, schedule="constant", warmup_epochs=1)
    assert [learning_rate(warm, s, 4) for s in range(8)] == pytest.approx([0.25, 0.5, 0.75, 1, 1, 1, 1, 1])
    restarts = TrainSettings(epochs=1.5, lr=1.0, schedule="restarts")
    assert [round(learning_rate(restarts, s, 4), 2) for s in range(6)] == [1.0, 0.85, 0.5, 0.15, 1.0, 0.5]
    cosine = TrainSettings(epochs=10, lr=0.1)
    rates = [learning_rate(cosine, s, 5) for s in range(50)]
    assert rates[0] == 0.1 and rates[25] == pytest.approx(0.05) and rates == sorted(rates, reverse=True)


def test_one_step_of_sgd_by_hand():
    model, by_hand = toys.small_network(norm=False), toys.small_network(norm=False)
    settings = TrainSettings(epochs=1, lr=0.1, batch_size=96, augment=False, weight_decay=0.01, label_smoothing=0.2)
    run(settings, model)
    images, labels = next(toys.shapes_split().batches(96))
    loss = F.cross_entropy(by_hand(images), labels, label_smoothing=0.2)
    gradients = torch.autograd.grad(loss, list(by_hand.parameters()))
    for p, q, g in zip(model.parameters(), by_hand.parameters(), gradients, strict=True):
        torch.testing.assert_close(p, q - 0.1 * (g + 0.01 * q), atol=1e-6, rtol=1e-5)


def test_clipping_bounds_the_step():
    model, before = toys.small_network(norm=False), toys.small_network(norm=False)
    settings = replace(FAST, epochs=0.01, momentum=0.0, weight_decay=0.0, lr=1.0, clip_norm=0.01, batch_size=96)
    run(settings, model)
    moved = sum((p - q).square().sum() for p, q in zip(model.parameters(), before.parameters(), strict=True))
    assert moved.sqrt().item() == pytest.approx(0.01, rel=1e-3)


def test_average_is_what_comes_out():
    settings = replace(FAST, epochs=1, batch_size=32, schedule="constant")
    path = [copy.deepcopy(toys.small_network(norm=False))]
    for steps in (1, 2, 3):  # without a norm every prefix of a run is a shorter run
        path.append(run(replace(settings, epochs=steps / 3), toys.small_network(norm=False))[0])
    model, _ = run(replace(settings, ema=0.5), toys.small_network(norm=False))
    mean = [p.detach().clone() for p in path[0].parameters()]
    for step, network in enumerate(path[1:]):
        decay = min(0.5, (1 + step) / (10 + step))
        mean = [decay * m + (1 - decay) * p.detach() for m, p in zip(mean, network.parameters(), strict=True)]
    for p, m in zip(model.parameters(), mean, strict=True):
        torch.testing.assert_close(p.detach(), m, atol=1e-6, rtol=1e-5)


def test_pure_imitation_goes_to_the_teacher_and_leaves_it_alone():
    teacher, _ = run(replace(FAST, epochs=6))
    kept = copy.deepcopy(teacher)
    student = toys.small_network(seed=5)
    settings = replace(FAST, epochs=8, distillation=1.0, temperature=2.0)
    _, report = run(settings, student, teacher=teacher)
    assert same(teacher, kept) and report.losses[-1] < 0.3 * report.losses[0]
    with pytest.raises(UserError, match="no teacher"):
        run(settings)


def test_tasks_without_logits_cannot_be_imitated():
    teacher = toys.small_network()
    for settings in (replace(FAST, distillation=0.5), replace(FAST, label_smoothing=0.1)):
        with pytest.raises(UserError, match="no logits"):
            train(teacher, get_task("detection"), toys.shapes_split(), settings, seed=0, teacher=teacher)


def test_the_monitor_s_best_epoch_comes_out_and_patience_ends_it():
    values = iter([0.1, 0.5, 0.4, 0.3, 0.9])
    seen = []

    def monitor(network):
        seen.append(copy.deepcopy(network.state_dict()))
        return next(values)

    model, report = run(replace(FAST, epochs=5, patience=2), monitor=monitor)
    assert report.scores == [0.1, 0.5, 0.4, 0.3] and report.best_epoch == 1 and report.stopped_early
    assert all(torch.equal(v, seen[1][k]) for k, v in model.state_dict().items())


def test_it_ends_with_the_first_epoch_that_is_good_enough():
    values = iter([0.1, 0.5, 0.9])
    _, report = run(replace(FAST, epochs=5), monitor=lambda network: next(values), enough=0.5)
    assert report.scores == [0.1, 0.5] and report.stopped_early


def test_a_hopeless_run_is_ended_and_its_best_epoch_comes_out():
    values = iter([0.1, 0.5, 0.2, 0.9])
    asked = []

    def hopeless(report):
        asked.append(list(report.scores))
        return len(report.scores) == 3

    _, report = run(replace(FAST, epochs=4), monitor=lambda network: next(values), hopeless=hopeless)
    assert asked == [[0.1], [0.1, 0.5], [0.1, 0.5, 0.2]]
    assert report.stopped_early and report.best_epoch == 1


def test_epochs_that_never_beat_the_start_leave_the_weights():
    model, before = toys.small_network(), toys.small_network()
    _, report = run(FAST, model, monitor=lambda network: 0.4, start=0.5)
    assert same(model, before) and report.best_epoch == -1 and report.scores == [0.4, 0.4]
    model, report = run(FAST, monitor=lambda network: 0.6, start=0.5)
    assert not same(model, before) and report.best_epoch == 0


def test_data_without_a_batch_is_said():
    class Empty:
        def __len__(self):
            return 0

        def steps(self, batch_size):
            return 1

        def batches(self, *arguments, **options):
            return iter(())

    with pytest.raises(UserError, match="no batch"):
        train(toys.small_network(), TASK, Empty(), FAST, seed=0)


@pytest.mark.parametrize(("images", "batch_size", "steps"), [(96, 32, 3), (97, 32, 3), (98, 32, 4), (1, 32, 1)])
def test_a_pass_has_as_many_batches_as_the_split_says(images, batch_size, steps):
    split = toys.shapes_split(images)
    assert split.steps(batch_size) == steps == len(list(split.batches(batch_size, seed=0)))


def test_settings_need_no_torch():
    code = "import sys, rlprune.training.settings; sys.exit('torch' in sys.modules)"
    assert (
        subprocess.run([sys.executable, "-S", "-c", f"import sys; sys.path[:] = {sys.path!r}; {code}"]).returncode == 0
    )


@pytest.mark.parametrize(("name", "kind"), [("sgd", torch.optim.SGD), ("adamw", torch.optim.AdamW)])
def test_optimizers_step_as_torchs_own(name, kind):
    ends = []
    for ours in (True, False):
        model = toys.small_network()
        optimizer = make_optimizer(model, TrainSettings(optimizer=name, lr=0.05))
        if not ours:
            given = {key: value for key, value in optimizer.defaults.items() if key != "decoupled_weight_decay"}
            optimizer = kind(model.parameters(), **given)
        for step in range(5):
            optimizer.zero_grad()
            batch = next(iter(toys.shapes_split(32).batches(32, seed=0)))
            TASK.loss(model, batch).backward()
            optimizer.step()
            if step == 2:
                optimizer.load_state_dict(optimizer.state_dict())
        assert isinstance(optimizer, kind)
        ends.append(model)
    assert same(*ends)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_training_does_without_torchs_compiler(name):
    code = (
        "import sys, torch; from torch import nn; from rlprune.training.settings import TrainSettings\n"
        "from rlprune.training.optimizers import make_optimizer\n"
        f"model = nn.Linear(3, 2); optimizer = make_optimizer(model, TrainSettings(optimizer={name!r}))\n"
        "optimizer.zero_grad(); model(torch.ones(1, 3)).sum().backward(); optimizer.step()\n"
        "optimizer.load_state_dict(optimizer.state_dict()); sys.exit('torch._dynamo' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_a_run_that_was_stopped_ends_as_one_that_was_not(tmp_path, ema, Killed):
    settings = replace(FAST, epochs=3, ema=ema, augment=True)
    whole, report = run(settings, monitor=lambda network: 0.5)
    file = tmp_path / "run.pt"

    def die(done):
        if done > 0.5:
            raise Killed

    with pytest.raises(Killed):
        run(settings, monitor=lambda network: 0.5, checkpoint=file, on_step=die)
    resumed, again = run(settings, monitor=lambda network: 0.5, checkpoint=file)
    assert same(whole, resumed) and report == again
    finished, _ = run(settings, monitor=lambda network: 0.5, checkpoint=file)
    assert same(finished, whole)
    with pytest.raises(UserError, match="does not fit"):
        train(torch.nn.Linear(2, 2), TASK, toys.shapes_split(), settings, seed=0, checkpoint=file)


def test_a_diverging_run_says_what_to_do():
    with pytest.raises(UserError, match=r"loss became (nan|inf).*lower the learning rate"):
        run(replace(FAST, epochs=10, lr=1e12), toys.small_network(norm=False))


def test_mixed_precision_trains():
    model, report = run(replace(FAST, epochs=6, amp=True))
    assert report.losses[-1] < report.losses[0]
    assert all(p.dtype == torch.float32 for p in model.parameters())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epochs", -1),
        ("epochs", float("nan")),
        ("lr", 0.0),
        ("lr", float("inf")),
        ("momentum", 1.0),
        ("ema", 1.0),
        ("label_smoothing", 1.5),
        ("batch_size", 0),
        ("clip_norm", -0.1),
    ],
)
def test_settings_out_of_bounds(name, value):
    with pytest.raises(UserError, match=name):
        TrainSettings(**{name: value})


@pytest.mark.parametrize(("name", "value"), [("schedule", "cosin"), ("optimizer", "sdg")])
def test_names_suggest_the_closest(name, value):
    with pytest.raises(UserError, match="did you mean"):
        TrainSettings(**{name: value})


WORKER = """
import importlib.util, os, sys, torch
from rlprune.recovery import TrainSettings, train
from rlprune.tasks import get_task
spec = importlib.util.spec_from_file_location("toys", sys.argv[1])
toys = importlib.util.module_from_spec(spec); spec.loader.exec_module(toys)
torch.set_num_threads(1)
rank = int(os.environ["RANK"])
model = toys.small_network(seed=rank, norm=False)  # the first process's weights are what all start from
settings = TrainSettings(epochs=2, lr=0.05, batch_size=40, augment=True, clip_norm=1.0, orthogonality=0.01)
report = train(model, get_task("classification"), toys.shapes_split(99), settings, seed=0, monitor=lambda m: 0.5 + rank)
torch.save({"state": model.state_dict(), "losses": report.losses, "scores": report.scores}, f"{sys.argv[2]}/{rank}.pt")
"""


def test_two_processes_under_torchrun_are_one_with_the_double_batch(tmp_path):
    script = tmp_path / "worker.py"
    script.write_text(WORKER)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*launch, str(script), str(Path(__file__).with_name("toys.py")), str(tmp_path)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=300, env={**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    )
    assert done.returncode == 0, done.stderr
    model = toys.small_network(norm=False)
    settings = TrainSettings(epochs=2, lr=0.05, batch_size=40, augment=True, clip_norm=1.0, orthogonality=0.01)
    report = train(model, TASK, toys.shapes_split(99), settings, seed=0, monitor=lambda m: 0.5)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    for key, value in model.state_dict().items():
        torch.testing.assert_close(first["state"][key], value, atol=1e-5, rtol=1e-4)
        assert torch.equal(first["state"][key], second["state"][key])
    assert first["losses"] == pytest.approx(report.losses, rel=1e-4)
    assert first["scores"] == second["scores"] == report.scores
