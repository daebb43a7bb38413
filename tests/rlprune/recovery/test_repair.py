"""Training after a removal goes on until the drop is back where it was asked to be, or the epochs are spent."""

from __future__ import annotations

import pytest
import torch

from rlprune.agents.runs import pruning
from rlprune.agents.runs.repairing import RepairUntil
from rlprune.agents.runs.settings import PruneSettings
from rlprune.channels import PruningPlan
from rlprune.recovery import TrainSettings, make_recovery
from rlprune.spec import ProblemSpec


@pytest.fixture(scope="module")
def problem():
    return ProblemSpec().build()


def trained(problem, tolerance: float, epochs: float) -> tuple[float, float]:
    """Drop after the repair of a hard removal, and the epochs that it took."""
    base = problem.base()
    plan = PruningPlan({group.name: range(int(0.7 * group.size)) for group in base.groups.prunable})
    after, before = base.remove(plan, problem.groups), problem.ledger.images_trained
    repair = RepairUntil(make_recovery("bn"), TrainSettings(lr=0.02), tolerance, epochs)
    repair.apply(base, after, plan, problem, seed=0)
    score = problem.evaluator.score(after.model, "control").value
    return problem.baseline.value - score, (problem.ledger.images_trained - before) / len(problem.data.train)


def test_it_stops_at_the_first_epoch_inside_the_tolerance(problem):
    none, without = trained(problem, 1.0, 10)
    loose, few = trained(problem, 0.2, 10)
    close, more = trained(problem, 0.05, 10)
    assert without == 0 and none > 0.2
    assert 0.5 < few < more < 9.5
    assert close <= 0.05 < loose <= 0.2


def test_it_spends_no_more_than_its_epochs(problem):
    drop, epochs = trained(problem, 0.0, 1.5)
    assert drop > 0.0
    assert epochs == pytest.approx(1.5, rel=0.1)


def test_epochs_that_do_harm_are_not_kept(problem):
    """At a rate that destroys the network every epoch is worse than none."""
    base = problem.base()
    plan = PruningPlan({group.name: range(int(0.5 * group.size)) for group in base.groups.prunable})
    cheap, trained = base.remove(plan, problem.groups), base.remove(plan, problem.groups)
    make_recovery("bn").apply(base, cheap, plan, problem, seed=0)
    RepairUntil(make_recovery("bn"), TrainSettings(lr=3.0), 0.0, 2).apply(base, trained, plan, problem, seed=0)
    for name, value in trained.model.state_dict().items():
        assert torch.equal(value, cheap.model.state_dict()[name]), name


@pytest.mark.parametrize(("share", "goal"), [(1.0, 0.02), (0.25, 0.005)])
def test_a_run_repairs_to_a_share_of_its_tolerance(problem, share, goal, monkeypatch):
    goals = []
    monkeypatch.setattr(pruning, "RepairUntil", lambda first, settings, tolerance, *_: goals.append(tolerance) or first)
    env = pruning.make_env(problem, PruneSettings(tolerance=0.02, repair_to=share))
    assert goals == [pytest.approx(goal)]
    assert env.tolerance == 0.02
