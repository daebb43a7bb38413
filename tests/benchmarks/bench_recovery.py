"""How fast recovery is, as ratios measured side by side in one run.

    RLPRUNE_TEST_DATA=FOLDER OMP_NUM_THREADS=1 python tests/benchmarks/bench_recovery.py [criteria]

FOLDER holds `cifar10.npz` and `weights/cifar10_resnet56.pt`. Needs about five minutes of one core. With `criteria` it
prints only how far the reconstruction criterion is ahead of L1 on all 10,000 test images, in about six minutes.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch

from rlprune.criteria import plan_from_counts
from rlprune.problem import ProblemSpec, PruningProblem
from rlprune.recovery import least_squares, make_recovery


def timed(function: Callable[[], object]) -> float:
    """Processor seconds of one call (one thread): what else the machine does falls on none of them."""
    start = time.process_time()
    function()
    return time.process_time() - start


def load() -> PruningProblem:
    """ResNet-56 on CIFAR-10, the first convs of its blocks free."""
    folder = os.environ.get("RLPRUNE_TEST_DATA")
    if not folder:
        sys.exit("set RLPRUNE_TEST_DATA to the folder with cifar10.npz and weights/")
    return ProblemSpec(
        model="resnet56",
        data=str(Path(folder) / "cifar10.npz"),
        weights=str(Path(folder) / "weights" / "cifar10_resnet56.pt"),
        keep=("conv1", "layer?.?.conv2"),
        calibration_size=1024,
    ).build()


def halves(problem: PruningProblem, share: float = 0.5, criterion: str = "l1"):
    """The network, the one with `share` of its MACs left at a uniform rate, and the plan between them."""
    before = problem.base()
    low, high, counts = 0.0, 1.0, {}
    for _ in range(30):
        rate = (low + high) / 2
        counts = {g.name: min(round(rate * g.size), g.max_removable) for g in before.groups.prunable}
        low, high = (rate, high) if problem.cost.macs(counts) > share * problem.cost.macs({}) else (low, rate)
    scores = problem.scores(criterion, before)
    plan = plan_from_counts(before.groups, scores, counts)
    return before, before.remove(plan, problem.groups), plan


def bench_least_squares(problem: PruningProblem) -> None:
    """All layers of ResNet-56, Gram matrices at hand. Target: under 50 ms."""
    collecting = timed(lambda: problem.measured.grams(problem.base(), problem))
    before, after, plan = halves(problem)
    grams = problem.measured.grams(before, problem)
    spent = [timed(lambda: least_squares(after.model, before.model, before.groups, plan, grams)) for _ in range(11)]
    print(f"least squares, 27 layers of ResNet-56: {1e3 * median(spent):.1f} ms (target: under 50)")
    print(f"  collecting their Gram matrices, once a network: {collecting:.2f} s, {grams.bytes / 2**20:.0f} MB")


def bench_ranking(problem: PruningProblem) -> None:
    """All layers ranked by reconstruction error, Gram matrices at hand. Target: about a second."""
    base = problem.base()
    problem.measured.grams(base, problem)
    spent = timed(lambda: problem.scores("reconstruction", base))
    print(f"ranking 27 layers of ResNet-56 by reconstruction error: {spent:.2f} s (target: about 1)", flush=True)


def bench_accuracy(problem: PruningProblem) -> None:
    """What each step brings, first 2,000 test images. Check figures: 29, 79.7, 82.3, 84.8 %."""
    for share in (0.5, 0.3):
        for names in ("none", "bn", "lsq", "lsq+bn", "lsq+bn-delta", "lsq+refit+bn-delta"):
            found = []
            for criterion in ("l1", "reconstruction"):
                before, after, plan = halves(problem, share, criterion)
                make_recovery(names).apply(before, after, plan, problem, seed=0)
                found.append(problem.evaluator.score(after.model, "whole_test", limit=2000).value)
            print(
                f"ResNet-56, {share:.0%} of the MACs left at uniform rates, {names:>18}: "
                f"l1 {found[0]:.2%}, reconstruction {found[1]:.2%}",
                flush=True,
            )


def bench_criteria(problem: PruningProblem) -> None:
    """Reconstruction beside L1 at uniform rates, all test images. Target: 5 points at 30 % of the MACs."""
    for share in (0.3, 0.5):
        for names in ("lsq+bn", "lsq+bn-delta"):
            found = []
            for criterion in ("l1", "reconstruction"):
                before, after, plan = halves(problem, share, criterion)
                make_recovery(names).apply(before, after, plan, problem, seed=0)
                found.append(problem.evaluator.score(after.model, "whole_test").value)
            print(
                f"ResNet-56, {share:.0%} of the MACs left at uniform rates, {names:>12}: l1 {found[0]:.2%}, "
                f"reconstruction {found[1]:.2%} ({100 * (found[1] - found[0]):+.2f} points)",
                flush=True,
            )


def bench_step(problem: PruningProblem) -> None:
    """Remove and recover, beside one scoring of the pruned network on 5,000 control images. Target: 1.15 in all."""
    control = problem.data.control.first(5000)
    problem.measured.grams(problem.base(), problem)
    before, after, plan = halves(problem)

    def step() -> None:
        make_recovery("lsq+bn").apply(before, before.remove(plan, problem.groups), plan, problem, seed=0)

    ratios = []
    for _ in range(3):
        scoring = timed(lambda: problem.evaluator.score_split(after.model, control))
        ratios.append(1 + timed(step) / scoring)
    print(f"remove + recover + score {len(control)} images / score: {median(ratios):.3f} (target: at most 1.15)")


def main() -> None:
    """All of them."""
    torch.set_num_threads(1)
    problem = load()
    if sys.argv[1:] == ["criteria"]:
        bench_criteria(problem)
        return
    bench_least_squares(problem)
    bench_ranking(problem)
    bench_step(problem)
    bench_accuracy(problem)


if __name__ == "__main__":
    main()
