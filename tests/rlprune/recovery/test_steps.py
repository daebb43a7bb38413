"""Recovery by name, on a real problem: digits and LeNet-5."""

from __future__ import annotations

import copy
import gc
import weakref

import pytest
import torch

from rlprune.criteria import plan_from_counts
from rlprune.data import load_data
from rlprune.errors import UserError
from rlprune.measuring.store import memory_bound
from rlprune.problem import PruningProblem
from rlprune.recovery import GramStore, Measured, TrainSettings, list_recoveries, make_recovery
from rlprune.recovery import train as train_network


class WithNorm(torch.nn.Sequential):
    def __init__(self):
        torch.manual_seed(0)
        super().__init__(
            torch.nn.Conv2d(1, 8, 3, stride=2, bias=False),
            torch.nn.BatchNorm2d(8),
            torch.nn.ReLU(),
            torch.nn.Conv2d(8, 16, 3, stride=2, bias=False),
            torch.nn.BatchNorm2d(16),
            torch.nn.ReLU(),
            torch.nn.AdaptiveAvgPool2d(3),
            torch.nn.Flatten(),
            torch.nn.Linear(144, 10),
        )


@pytest.fixture(scope="module")
def problem():
    data = load_data("digits")
    model = WithNorm()
    found = PruningProblem(model, data)
    settings = TrainSettings(epochs=6, lr=0.1, batch_size=32, augment=False)
    train_network(found.model, found.task, data.train, settings, seed=0)
    return PruningProblem(found.model, data)


def pruned(problem, rate=0.5):
    before = problem.base()
    scores = problem.scores("l1", before)
    plan = plan_from_counts(before.groups, scores, {g.name: int(rate * g.size) for g in before.groups.prunable})
    return before, before.remove(plan, problem.groups), plan


def loss_after(problem, spec, **settings):
    before, after, plan = pruned(problem)
    kept = copy.deepcopy(before.model.state_dict())
    make_recovery(spec, TrainSettings(**settings)).apply(before, after, plan, problem, seed=0)
    assert all(torch.equal(v, kept[k]) for k, v in before.model.state_dict().items())
    return problem.evaluator.score(after.model, "control").loss


def test_every_step_helps(problem):
    problem.measured.forget()
    as_is = loss_after(problem, "none")
    lsq, bn, both = (loss_after(problem, spec) for spec in ("lsq", "bn", "lsq+bn"))
    trained = loss_after(problem, "lsq+bn+finetune", epochs=4, lr=0.005, augment=False)
    assert lsq < 0.7 * as_is and bn < as_is
    assert both <= min(lsq, bn) * 1.1
    assert trained < both


def test_gram_matrices_are_collected_once_for_equal_networks_and_anew_for_trained_ones(problem):
    problem.measured.forget()
    first = problem.measured.grams(problem.base(), problem)
    assert problem.measured.grams(problem.base(), problem) is first
    other = problem.base()
    with torch.no_grad():
        other.model[0].weight[0, 0, 0, 0] += 1e-3
    assert problem.measured.grams(other, problem) is not first
    assert problem.measured.grams(problem.base(), problem) is first


def test_what_is_kept_is_bounded(problem):
    small = Measured(memory=1)
    first = small.grams(problem.base(), problem)
    other = problem.base()
    with torch.no_grad():
        other.model[0].weight.mul_(2)
    assert small.grams(other, problem) is not first
    assert small.grams(problem.base(), problem) is not first


def test_problems_of_one_process_share_the_bound(problem):
    first, second = Measured(), Measured()
    held = first.grams(problem.base(), problem)
    second.norms(problem.base(), problem)
    assert first.bytes and second.bytes
    second.memory = first.bytes + second.bytes
    second.grams(problem.base(), problem)
    assert first.bytes == 0 < second.bytes
    assert first.grams(problem.base(), problem) is not held


def test_workers_share_the_memory_of_the_machine(monkeypatch):
    alone = memory_bound()
    monkeypatch.setattr("rlprune.measuring.store.os.cpu_count", lambda: 8)
    assert memory_bound() == alone
    monkeypatch.setattr("rlprune.measuring.store.multiprocessing.parent_process", lambda: object())
    assert Measured().memory == memory_bound() == alone // 8


def test_many_networks_take_no_more_memory_than_a_few(problem):
    kept, sizes = Measured(), []
    for _ in range(20):
        network = problem.base()
        with torch.no_grad():
            network.model[1].running_mean.add_(len(sizes) + 1)
        kept.norms(network, problem)
        sizes.append(kept.bytes)
    assert sizes[-1] == sizes[-5] == max(sizes)


def test_criterion_and_recovery_share_gram_matrices(problem, monkeypatch):
    problem.measured.forget()
    problem.scores("reconstruction", problem.base())
    monkeypatch.setattr(GramStore, "collect", None)
    loss_after(problem, "lsq")


def test_what_was_measured_goes_with_its_problem(problem):
    mine = PruningProblem(problem.model, problem.data)
    held = weakref.ref(mine.measured.grams(mine.base(), mine))
    del mine
    gc.collect()
    assert held() is None


def test_recovery_is_deterministic(problem):
    states = []
    for _ in range(2):
        problem.measured.forget()
        before, after, plan = pruned(problem)
        make_recovery("lsq+bn+finetune", TrainSettings(epochs=0.3)).apply(before, after, plan, problem, seed=3)
        states.append(after.model.state_dict())
    assert all(torch.equal(v, states[1][k]) for k, v in states[0].items())


def test_patience_watches_the_control_split(problem):
    before, after, plan = pruned(problem)
    settings = TrainSettings(epochs=20, lr=1e-9, momentum=0.0, patience=2, augment=False)
    trained, scored = problem.ledger.images_trained, problem.ledger.evaluations
    make_recovery("finetune", settings).apply(before, after, plan, problem, seed=0)
    epochs = problem.ledger.evaluations - scored
    assert problem.ledger.images_trained - trained == epochs * len(problem.data.train) and 3 <= epochs < 20


def test_names():
    assert {"none", "bn", "lsq", "finetune"} <= set(list_recoveries())
    assert make_recovery("lsq + bn").name == "lsq+bn"
    with pytest.raises(UserError, match="did you mean 'lsq'"):
        make_recovery("lsk+bn")
    with pytest.raises(UserError, match="twice"):
        make_recovery("bn+bn")
