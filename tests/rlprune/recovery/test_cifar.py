"""The check figures of recovery without training, on real data."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from rlprune.criteria import plan_from_counts
from rlprune.network import Network
from rlprune.problem import PruningProblem
from rlprune.recovery import make_recovery
from rlprune.spec import ProblemSpec

pytestmark = pytest.mark.slow
DATA = os.environ.get("RLPRUNE_TEST_DATA")


@pytest.fixture(scope="module")
def problem():
    if not DATA:
        pytest.skip("RLPRUNE_TEST_DATA names no folder with the real data")
    root = Path(DATA)
    spec = ProblemSpec(
        model="resnet56",
        data=str(root / "cifar10.npz"),
        weights=str(root / "weights" / "cifar10_resnet56.pt"),
        keep=("conv1", "layer?.?.conv2"),
        calibration_size=1024,
    )
    return spec.build()


def first_convs(problem: PruningProblem, share: float, criterion: str = "l1") -> tuple[Network, Network, object]:
    """ResNet-56 with the first convs of its blocks pruned at one rate, so that `share` of the MACs is left."""
    before = problem.base()
    scores = problem.scores(criterion, before)
    low, high = 0.0, 1.0
    for _ in range(30):
        rate = (low + high) / 2
        counts = {g.name: min(round(rate * g.size), g.max_removable) for g in before.groups.prunable}
        low, high = (rate, high) if problem.cost.macs(counts) > share * problem.cost.macs({}) else (low, rate)
    plan = plan_from_counts(before.groups, scores, counts)
    return before, before.remove(plan, problem.groups), plan


def accuracy(problem, recovery, share, criterion="l1"):
    before, after, plan = first_convs(problem, share, criterion)
    make_recovery(recovery).apply(before, after, plan, problem, seed=0)
    return problem.evaluator.score(after.model, "whole_test", limit=2000).value


def test_half_the_macs_of_resnet56(problem):
    assert [g.name for g in problem.groups.prunable][:2] == ["layer1.0.conv1", "layer1.1.conv1"]
    assert len(problem.groups.prunable) == 27
    with torch.no_grad():
        as_is, bn, lsq, both = (accuracy(problem, r, 0.5) for r in ("none", "bn", "lsq", "lsq+bn"))
    assert as_is < 0.5
    assert bn > 0.78 and lsq > 0.82 and both >= 0.84
    assert both > max(bn, lsq) - 0.005


def test_ranking_by_reconstruction_pays_where_pruning_is_deep(problem):
    by_norm, by_error = (accuracy(problem, "lsq+bn", 0.3, criterion) for criterion in ("l1", "reconstruction"))
    assert by_error >= by_norm + 0.05
