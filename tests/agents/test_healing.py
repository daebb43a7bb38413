"""Training after a removal ends when the drop is where it was asked to be, or its epochs are spent."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from rlprune.agents.runs.healing import Cycle, Heal, Healed, Lost
from rlprune.agents.runs.watching import Silent
from rlprune.channels import PruningPlan
from rlprune.network import Network
from rlprune.problem import PruningProblem
from rlprune.recovery import make_recovery
from rlprune.spec import ProblemSpec
from rlprune.training.settings import TrainSettings


@pytest.fixture(scope="module")
def problem() -> PruningProblem:
    return ProblemSpec(calibration_size=128).build()


def healed(problem: PruningProblem, cycle: Cycle | None, rate: float = 0.7) -> tuple[Network, Healed | None]:
    """A hard removal, repaired."""
    base = problem.base()
    plan = PruningPlan({group.name: range(int(rate * group.size)) for group in base.groups.prunable})
    after = base.remove(plan, problem.groups)
    heal = Heal(make_recovery("bn"), Silent(), lambda: False)
    heal.cycle = cycle
    heal.apply(base, after, plan, problem, seed=0)
    return after, heal.last


def cycle(epochs: float, enough: float | None, file: Path | None = None, **settings: Any) -> Cycle:
    given = {"lr": 0.02, "schedule": "restarts", "amp": False, **settings}
    return Cycle(TrainSettings(epochs=epochs, **given), enough, file=file)


def test_it_stops_at_the_first_epoch_inside(problem: PruningProblem) -> None:
    _, none = healed(problem, cycle(10, 1.0))
    _, loose = healed(problem, cycle(10, 0.2))
    _, close = healed(problem, cycle(10, 0.05))
    assert none is not None and loose is not None and close is not None
    assert none.epochs == 0 and none.before == none.after > 0.2
    assert 0.5 < loose.epochs < close.epochs < 9.5
    assert close.after <= 0.05 < loose.after <= 0.2


def test_it_spends_no_more_than_its_epochs_and_counts_them(problem: PruningProblem) -> None:
    before = problem.ledger.images_trained
    _, found = healed(problem, cycle(1.5, 0.0))
    assert found is not None and found.after > 0.0 and found.epochs == pytest.approx(1.5, rel=0.1)
    assert problem.ledger.images_trained - before == pytest.approx(1.5 * len(problem.data.train), rel=0.1)


def test_epochs_that_do_harm_are_not_kept(problem: PruningProblem) -> None:
    """At a rate that destroys the network every epoch is worse than none."""
    cheap, untrained = healed(problem, None, rate=0.5)
    trained, found = healed(problem, cycle(2, 0.0, lr=3.0, clip_norm=1.0), rate=0.5)
    assert untrained is None and found is not None and found.after == found.before
    for name, value in trained.model.state_dict().items():
        assert torch.equal(value, cheap.model.state_dict()[name]), name


def test_what_a_larger_cut_has_learnt_is_not_lost(problem: PruningProblem) -> None:
    """A smaller cut from the same network begins with it where that is better, also from a file; from others not."""
    base = problem.base()
    heal = Heal(make_recovery("bn"), Silent(), lambda: False)
    heal.cycle = replace(cycle(2.0, None), regrow=True)

    def cut(rate: float, before: Network = base, heal: Heal = heal) -> tuple[Network, Healed]:
        plan = PruningPlan({group.name: range(int(rate * group.size)) for group in before.groups.prunable})
        after = before.remove(plan, problem.groups)
        heal.apply(before, after, plan, problem, seed=0)
        assert heal.last is not None
        return after, heal.last

    blank = heal.key
    first, far = cut(0.7)
    assert not far.regrown and far.before > 0.2 and heal.key != blank and heal.lost is not None
    saved = heal.lost.to_dict()
    second, nearer = cut(0.6)
    assert nearer.regrown and nearer.before == pytest.approx(far.after) and nearer.after <= far.after
    again = Heal(make_recovery("bn"), Silent(), lambda: False)
    again.cycle, again.lost = heal.cycle, Lost.from_dict(saved)
    repeated, same = cut(0.6, heal=again)
    assert same == nearer and all(map(torch.equal, second.model.parameters(), repeated.model.parameters()))
    _, further = cut(0.3, before=first, heal=again)
    assert not further.regrown
    heal.cycle = cycle(2.0, None)
    assert heal.key == blank.replace("'regrow': True", "'regrow': False") and not cut(0.5)[1].regrown
