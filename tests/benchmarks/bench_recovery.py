"""How fast recovery is, as ratios measured side by side in one run.

    RLPRUNE_TEST_DATA=FOLDER OMP_NUM_THREADS=1 python tests/benchmarks/bench_recovery.py [criteria]

FOLDER holds `cifar10.npz` and `weights/cifar10_resnet56.pt`. Needs about five minutes of one core. With `criteria` it
prints only how far the reconstruction criterion is ahead of L1 on all 10,000 test images, in about six minutes; with
`wide` only least squares of one wide layer, which needs no data.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch

from rlprune.channels import remove_channels, trace_channels
from rlprune.criteria import plan_from_counts
from rlprune.criteria.errors import error_curves
from rlprune.problem import PruningProblem
from rlprune.recovery import GramStore, least_squares, make_recovery
from rlprune.spec import ProblemSpec


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


def bench_wide() -> None:
    """A reader of 512 channels through 3x3 (4,608 columns), a third of them gone, beside the plain float64 solution."""
    torch.manual_seed(0)
    first, reader = torch.nn.Conv2d(3, 512, 3, padding=1), torch.nn.Conv2d(512, 256, 3, padding=1)
    model = torch.nn.Sequential(first, torch.nn.ReLU(), torch.nn.MaxPool2d(4), reader).eval()
    inputs = torch.nn.functional.interpolate(torch.randn(512, 3, 6, 6), 16)
    groups = trace_channels(model, inputs[:1])
    grams = GramStore.collect(model, groups, [(part,) for part in inputs.split(64)])
    scores = {"0": first.weight.detach().abs().sum((1, 2, 3)).double().numpy()}
    plan = plan_from_counts(groups, scores, {"0": 170})
    gone = torch.zeros(512, dtype=torch.bool)
    gone[list(plan.removed["0"])] = True
    gone = gone.repeat_interleave(9)
    matrix, mean = grams["3"].gram[0].double(), grams["3"].mean[0]
    matrix.addr_(mean, mean, alpha=-1)
    weight, spent = grams["3"].matrix[0].double().T, {}

    def plainly() -> torch.Tensor:
        stays, there = ~gone, matrix[~gone]
        ridge = 1e-3 * matrix.diagonal()[stays].mean() * torch.eye(int(stays.sum()), dtype=torch.float64)
        return torch.linalg.solve(there[:, stays] + ridge, there @ weight + ridge @ weight[stays])

    wanted: list[torch.Tensor] = []
    spent["plainly"] = timed(lambda: wanted.append(plainly()))
    spread = float((weight * (matrix @ weight)).sum())
    for how in ("from the Gram matrix", "from the error curves' factor"):
        pruned = remove_channels(model, groups, plan)
        spent[how] = timed(lambda pruned=pruned: least_squares(pruned, model, groups, plan, grams))
        difference = pruned[3].weight.detach().double().flatten(1).T - wanted[0]
        error = float((difference * (matrix[~gone][:, ~gone] @ difference)).sum()) / spread
        times = f"{spent[how]:.2f} s against {spent['plainly']:.2f} plainly"
        print(f"least squares, 4,608 columns, {how}: {times}; outputs differ by {error**0.5:.1e} of their spread")
        if not grams["3"].factors:
            curves = timed(lambda: error_curves(model, groups, ["0"], scores, grams))
            print(f"  error curve of the same reader: {curves:.2f} s", flush=True)


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
    if sys.argv[1:] == ["wide"]:
        bench_wide()
        return
    problem = load()
    if sys.argv[1:] == ["criteria"]:
        bench_criteria(problem)
        return
    bench_least_squares(problem)
    bench_wide()
    bench_ranking(problem)
    bench_step(problem)
    bench_accuracy(problem)


if __name__ == "__main__":
    main()
