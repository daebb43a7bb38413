"""What the environment costs beside the evaluation it stands for.

    python tests/benchmarks/bench_envs.py DATA_FOLDER      ResNet-56 on real CIFAR-10; without a folder the toy alone

DATA_FOLDER holds `cifar10.npz` and `weights/cifar10_resnet56.pt`. Times are of the processor, in one thread, so that
what else the machine does matters less. Targets: an episode <= 1.15 x one forward pass of the pruned network over
2,000 control images, plus the recalibration pass; <= 1 ms a step outside the evaluation; >= 3,000 steps/s on a table.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
import torch

from rlprune.envs import FilterPruningEnv, Rules, ScoreTable, TablePruningEnv
from rlprune.envs.toy import ToyPruningEnv
from rlprune.measuring.store import BATCH, BN_IMAGES
from rlprune.recovery import recalibrate_bn
from rlprune.spec import ProblemSpec

CLOCK = time.process_time


def steps_a_second(env: FilterPruningEnv, seconds: float = 3.0) -> float:
    """Steps of a random policy."""
    generator = np.random.default_rng(0)
    actions = generator.uniform(-1, 1, (10_000, 1)).astype(np.float32)
    start, count = CLOCK(), 0
    while CLOCK() - start < seconds:
        env.reset()
        over = False
        while not over:
            over = env.step(actions[count % 10_000])[2]
            count += 1
    return count / (CLOCK() - start)


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


def episode(env: FilterPruningEnv, action: float) -> tuple[float, float]:
    """Seconds of a whole episode, and the median of its steps before the last."""
    steps = []
    start = CLOCK()
    env.reset()
    over = False
    while not over:
        begin = CLOCK()
        over = env.step(np.array([action], dtype=np.float32))[2]
        steps.append(CLOCK() - begin)
    return CLOCK() - start, median(steps[:-1])


def main() -> None:
    """Print the figures."""
    torch.set_num_threads(1)
    toy = ToyPruningEnv(blocks=9)
    print(f"toy, 9 groups:            {steps_a_second(toy):8.0f} steps/s")
    print(f"table, 9 groups:          {steps_a_second(table_of(toy)):8.0f} steps/s (target 3000)")
    if len(sys.argv) < 2:
        return
    folder = Path(sys.argv[1])
    spec = ProblemSpec(
        model="resnet56",
        data=str(folder / "cifar10.npz"),
        weights=str(folder / "weights" / "cifar10_resnet56.pt"),
        control_from="test",
        control_size=2000,
    )
    problem = spec.build()
    rules = Rules(one_shot=True, budget=0.5, max_rate=0.9, reward="accuracy", skip=("residual",))
    env = FilterPruningEnv.from_problem(problem, rules)
    print(f"table, {len(env.scope.names)} groups:         {steps_a_second(table_of(env)):8.0f} steps/s (target 3000)")
    episode(env, 0.0)  # collects the Gram matrices
    ratios = []
    for number in range(1, 4):
        whole, step = episode(env, number / 100)
        model = env.network.model if env.network.plan else env._episode.state.network.model
        begin = CLOCK()
        problem.evaluator.score(model, "control")
        forward = CLOCK() - begin
        images = problem.data.calibration.first(BN_IMAGES).batches(BATCH)
        begin = CLOCK()
        recalibrate_bn(model, (problem.task.inputs(batch) for batch in images))
        recalibration = CLOCK() - begin
        ratios.append((whole - recalibration) / forward)
        print(
            f"episode {whole:.2f} s, forward {forward:.2f} s, recalibration {recalibration:.2f} s: "
            f"(episode - recalibration) / forward {ratios[-1]:.2f}; a step {1e3 * step:.2f} ms"
        )
    print(f"median ratio {median(ratios):.2f} (target 1.15)")


if __name__ == "__main__":
    main()
