"""What episodes cost beside the forward pass they stand for.

    python tests/benchmarks/bench_envs.py [DATA_FOLDER]      real CIFAR-10 networks; without a folder the toys alone

DATA_FOLDER holds `cifar10.npz` and `weights/cifar10_NAME.pt`; a network without weights there is timed untrained, whose
scores mean nothing and whose passes cost the same.
Times are of the processor, in one thread, so that what else the machine does matters less; steps a second are the best
of several short runs for the same reason. Per network:

    prepare   making problem and environment: trace, check, cost tables, copy of the weights
    baseline  scoring the unpruned network on 2,000 control images
    first     the first episode, ranking, Gram matrices, statistics and error curves included
    further   the median of three later ones, each of another schedule
    forward   scoring the pruned network of that episode once more, nothing else; ratios are against it

Nothing is subtracted. Left out: loading data and weights, importing torch, and anything that trains. Targets: a further
episode at most 1.15 forward passes (VGG-16 1.4), steps of tables 5,000 a second alone on a core, and an overhead an
episode that grows no faster than the groups.
"""

from __future__ import annotations

import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from statistics import median

import numpy as np
import torch

from rlprune.envs import FilterPruningEnv, Rules, ScoreTable, TablePruningEnv
from rlprune.envs.toy import ToyPruningEnv
from rlprune.problem import PruningProblem
from rlprune.spec import ProblemSpec

CLOCK = time.process_time
NETWORKS = ("resnet56", "mobilenet_v1", "vgg16")
LAYERWISE = Rules(one_shot=True, budget=0.5, max_rate=0.9, reward="accuracy")


def steps_a_second(env: FilterPruningEnv) -> float:
    """Steps of a random policy, resets and ends of episodes included: the best of eight runs."""
    actions = np.random.default_rng(0).uniform(-1, 1, (10_000, 1)).astype(np.float32)
    best = 0.0
    for _ in range(8):
        start, count = CLOCK(), 0
        while CLOCK() - start < 0.4:
            env.reset()
            over = False
            while not over:
                over = env.step(actions[count % 10_000])[2]
                count += 1
        best = max(best, count / (CLOCK() - start))
    return best


def table_of(env: FilterPruningEnv, schedules: int = 500) -> TablePruningEnv:
    """A table of random schedules of an environment, with random scores: what is timed does not depend on them."""
    generator = np.random.default_rng(0)
    env.reset()
    rates = generator.uniform(0, env.rate_cap, (schedules, len(env.prunable)))
    counts = np.array([env.budget.repair(row) for row in rates])
    values = generator.uniform(0, 1, schedules)
    groups = env.problem.groups
    curves = {name: np.linspace(0.0, 1.0, groups[name].size + 1) ** 2 for name in env.scope.names}
    table = ScoreTable(groups, env.scope.names, env.scores, curves, env.baseline, env.rules, counts, values)
    with tempfile.TemporaryDirectory() as scratch:
        table.save(Path(scratch) / "table.json")
        return TablePruningEnv(str(Path(scratch) / "table.json"))


def toys() -> None:
    """Environments without a network: all of their time is overhead."""
    print(f"{'groups':>6} {'toy, steps/s':>13} {'table, steps/s':>15} {'ms an episode':>14} {'us a step':>10}")
    for blocks in (9, 27, 54, 200):
        toy = ToyPruningEnv(blocks=blocks)
        table = table_of(toy, min(500, 20_000 // blocks))
        played, served = steps_a_second(toy), steps_a_second(table)
        cost = f"{1e3 * blocks / played:14.2f} {1e6 / played:10.0f}"
        print(f"{blocks:6} {played:13.0f} {served:15.0f} {cost}", flush=True)


def episode(env: FilterPruningEnv, action: float) -> tuple[float, float]:
    """Seconds of a whole episode, reset included, and the median of its steps before the last."""
    steps = []
    start = CLOCK()
    env.reset()
    over = False
    while not over:
        begin = CLOCK()
        over = env.step(np.array([action], dtype=np.float32))[2]
        steps.append(CLOCK() - begin)
    return CLOCK() - start, median(steps[:-1])


def network(name: str, folder: Path) -> None:
    """One network's line."""
    weights = folder / "weights" / f"cifar10_{name}.pt"
    trained, data = weights.is_file(), str(folder / "cifar10.npz")
    spec = ProblemSpec(model=name, data=data, weights=str(weights) if trained else None)
    loaded = replace(spec, control_from="test", control_size=2000).build(untrained=True)
    start = CLOCK()
    problem = PruningProblem(loaded.model, loaded.data)
    traced = CLOCK() - start
    start = CLOCK()
    assert problem.baseline.n == 2000
    baseline = CLOCK() - start
    start = CLOCK()
    env = FilterPruningEnv.from_problem(problem, LAYERWISE)
    prepare = traced + CLOCK() - start
    first, _ = episode(env, 0.0)
    further, forwards, steps = [], [], []
    for number in range(1, 4):
        whole, step = episode(env, number / 100)
        start = CLOCK()
        problem.evaluator.score(env.network.model, "control")
        further.append(whole)
        forwards.append(CLOCK() - start)
        steps.append(step)
    forward = median(forwards)
    ratio = median(whole / one for whole, one in zip(further, forwards, strict=True))
    made = f"{name if trained else name + ' *':14} {len(env.scope.names):6} {prepare:8.2f} {baseline:9.2f}"
    played = f"{first:6.2f} {median(further):8.2f} {forward:8.2f} {first / forward:14.2f} {ratio:16.2f}"
    print(f"{made} {played} {1e3 * median(steps):10.2f}", flush=True)


def main() -> None:
    """Print the figures."""
    torch.set_num_threads(1)
    toys()
    if len(sys.argv) < 2:
        return
    print(
        f"\n{'network':14} {'groups':>6} {'prepare':>8} {'baseline':>9} {'first':>6} {'further':>8} {'forward':>8} "
        f"{'first/forward':>14} {'further/forward':>16} {'ms a step':>10}"
    )
    for name in NETWORKS:
        network(name, Path(sys.argv[1]))
    print("* untrained")


if __name__ == "__main__":
    main()
