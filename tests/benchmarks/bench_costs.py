"""What everything that is not a forward pass costs, as ratios, in one run.

    OMP_NUM_THREADS=1 python tests/benchmarks/bench_costs.py [--data FOLDER] [--further N] [PART ...]

Parts: start, tables, cell, engine, race, cifar, large; all of them by default. `cifar` and `race` need FOLDER with
`cifar10.npz` and `weights/cifar10_NAME.pt` (for `cifar`, a network without weights there is timed untrained: its scores
mean nothing, its passes cost the same); `engine` compares with Torch-Pruning where that is installed.

Times are of the processor, in one thread, so that what else the machine does matters less; each part, and each network
of `cifar` and `large`, runs in a process of its own, whose peak of memory is told. Per network:

    prepare   tracing, checking, cost tables, the environment
    first     the first episode but for its scoring: ranking, Gram matrices, statistics, error curves, least squares
    further   a whole later episode of another schedule, `lsq+bn-delta`, its scoring included
    forward   scoring that episode's network once more, nothing else
    classic   least squares from collected features, the way of AMC's environment (He et al. 2018), for the same plan:
              collecting once, and fitting for every episode

Left out: loading data and weights, importing torch (but for `start`), anything that trains, threads and other devices,
and AMC's own passes (its features come from 3,000 images, here from those that Gram matrices are taken from).
"""

from __future__ import annotations

import argparse
import copy
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rlprune.agents.controllers.search import RandomSearch
from rlprune.channels import remove_channels, trace_channels
from rlprune.criteria import CriterionContext, get_criterion, plan_from_counts
from rlprune.envs import FilterPruningEnv, Rules, ScoreTable, TablePruningEnv
from rlprune.envs.toy import ToyPruningEnv
from rlprune.measuring.grams import sampling
from rlprune.measuring.store import calibration_calls
from rlprune.measuring.unfolding import Unfoldable, Unfolding, sampled_rows
from rlprune.problem import PruningProblem
from rlprune.spec import ProblemSpec

CLOCK = time.process_time
CIFAR = {"resnet56": 1.15, "mobilenet_v1": 1.15, "vgg16": 1.4}  # and the most that a further episode may cost
LARGE = {"resnet50": 1.4}
ENGINE = {  # and the layer that must keep its width
    "resnet50": "fc",
    "vgg16_bn": "classifier.6",
    "mobilenet_v2": "classifier.1",
    "efficientnet_b0": "classifier.1",
    "deeplabv3_resnet50": "classifier.4",
}
LAYERWISE = Rules(one_shot=True, budget=0.5, max_rate=0.9, reward="accuracy")


def line(*words: object) -> None:
    """Print at once."""
    print(*words, flush=True)


# Starting ------------------------------------------------------------------------------------------------------------


def start() -> None:
    """Processor time of commands that do nothing, and of getting as far as the first step of the default command."""
    game = (
        "from rlprune.spec import ProblemSpec; from rlprune.envs import FilterPruningEnv; "
        "FilterPruningEnv.from_problem(ProblemSpec().build()).reset()"
    )
    cases = {
        "import torch": ["-c", "import torch"],
        "--help (limit 0.3)": ["-m", "rlprune.cli", "--help"],
        "prune --help (limit 1)": ["-m", "rlprune.cli", "prune", "--help"],
        "a mistake in an option (limit 1)": ["-m", "rlprune.cli", "prune", "--toleranc", "0.1"],
        "digits traced, scored and ranked (limit 6)": ["-c", game],
    }
    for what, arguments in cases.items():
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, *arguments], capture_output=True, check=False)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        line(f"{after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime:6.2f} s  {what}")


# Environments without a network --------------------------------------------------------------------------------------


def steps_a_second(env: FilterPruningEnv) -> float:
    """Steps of a random policy, resets and ends of episodes included: the best of eight runs."""
    actions = np.random.default_rng(0).uniform(-1, 1, (10_000, 1)).astype(np.float32)
    best = 0.0
    for _ in range(8):
        begin, count = CLOCK(), 0
        while CLOCK() - begin < 0.4:
            env.reset()
            over = False
            while not over:
                over = env.step(actions[count % 10_000])[2]
                count += 1
        best = max(best, count / (CLOCK() - begin))
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


def tables() -> None:
    """Environments without a network: all of their time is overhead."""
    line(f"{'groups':>6} {'toy, steps/s':>13} {'table, steps/s (5,000)':>23} {'ms an episode':>14} {'us a step':>10}")
    for blocks in (9, 27, 54, 200):
        toy = ToyPruningEnv(blocks=blocks)
        played, served = steps_a_second(toy), steps_a_second(table_of(toy, min(500, 20_000 // blocks)))
        line(f"{blocks:6} {played:13.0f} {served:23.0f} {1e3 * blocks / played:14.2f} {1e6 / played:10.0f}")


# A comparison's cell -------------------------------------------------------------------------------------------------


def cell() -> None:
    """Cells of digits/LeNet-5 without training: of one seed, as a comparison plays one method after another."""
    from rlprune.agents.compare.cells import Job
    from rlprune.agents.compare.settings import CompareSettings

    cells = CompareSettings(methods=("uniform", "pfec", "error"), seeds=(0,), budgets=(0.5,), epochs=0.0).cells()
    for job in [Job(one, one.stages) for one in cells]:
        job.run()
    for timed in (False, True):
        spent = []
        for one in cells:
            begin = CLOCK()
            assert Job(one, one.stages, timed=timed).run().trace is None
            spent.append(CLOCK() - begin)
        line(f"{median(spent):6.2f} s  a cell (limit 0.6){', its latency measured' if timed else ''}")


# The channel engine --------------------------------------------------------------------------------------------------


def ours(model: nn.Module, inputs: Tensor) -> list[float]:
    """Seconds of trace and check, of ranking, and of removing half of every group."""
    times = [CLOCK()]
    groups = trace_channels(model, inputs)
    times.append(CLOCK())
    scores = get_criterion("l1").scores(CriterionContext(model=model, groups=groups))
    times.append(CLOCK())
    counts = {group.name: min(group.size // 2, group.max_removable) for group in groups.prunable}
    remove_channels(model, groups, plan_from_counts(groups, scores, counts))
    times.append(CLOCK())
    return np.diff(times).tolist()


def torch_pruning(model: nn.Module, inputs: Tensor, last: str) -> float | None:
    """Seconds of the same by Torch-Pruning; None where it is not installed or fails."""
    try:
        import torch_pruning as tp
    except ImportError:
        return None
    begin = CLOCK()
    try:
        importance = tp.importance.MagnitudeImportance(p=1)
        kept = [model.get_submodule(last)]
        tp.pruner.BasePruner(model, inputs, importance, pruning_ratio=0.5, ignored_layers=kept).step()
    except Exception:
        return None
    return CLOCK() - begin


def engine() -> None:
    """Trace, check, rank and remove half of networks at 224 pixels, beside Torch-Pruning and a forward pass."""
    import torchvision

    warnings.simplefilter("ignore")
    ours(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 6, 3)), torch.randn(1, 3, 9, 9))  # imports
    line(f"{'network':20} {'trace+check':>11} {'rank':>5} {'remove':>6} {'whole':>6} {'/ forward':>9} {'/ T-P (1)':>9}")
    for name, last in ENGINE.items():
        random = {"weights": None, **({"weights_backbone": None} if "_resnet" in name else {})}
        model, inputs = torchvision.models.get_model(name, **random).eval(), torch.randn(1, 3, 224, 224)
        with torch.no_grad():
            model(inputs)
            begin = CLOCK()
            model(inputs)
            forward = CLOCK() - begin
        spent = ours(model, inputs)
        other = torch_pruning(copy.deepcopy(model), inputs, last)
        parts = f"{spent[0]:11.2f} {spent[1]:5.2f} {spent[2]:6.2f} {sum(spent):6.2f}"
        line(
            f"{name:20} {parts} {sum(spent) / forward:9.1f} {'-' if other is None else f'{sum(spent) / other:.2f}':>9}"
        )


# Searches ------------------------------------------------------------------------------------------------------------


def race(folder: Path, seeds: int) -> None:
    """Random search over 60 schedules of ResNet-20, on all of 1,000 images and racing."""
    weights = folder / "weights" / "cifar10_resnet20.pt"
    spec = ProblemSpec(model="resnet20", data=str(folder / "cifar10.npz"), weights=str(weights), control_from="test")
    problem = replace(spec, control_size=1000, calibration_size=256).build()
    same, images, seconds = [], [], []
    for seed in range(seeds):
        found = []
        for racing in (False, True):
            own = problem.fresh()
            env = FilterPruningEnv.from_problem(own, replace(LAYERWISE, budget=0.6, seed=seed), recovery="bn-delta")
            env.reset()
            search = RandomSearch(60, racing=racing)
            search.bind(env)
            scored, begin = own.ledger.images_evaluated, CLOCK()
            found.append((search.plan(), own.ledger.images_evaluated - scored, CLOCK() - begin))
            env.close()
        (plan, all_images, whole), (raced, some_images, part) = found
        same.append(plan == raced), images.append(some_images / all_images), seconds.append(part / whole)
        winner = "the same" if same[-1] else "another"
        line(f"seed {seed}: {winner} winner, {images[-1]:.2f} of the images, {seconds[-1]:.2f} of the time")
    line(f"the same winner in {sum(same)} of {seeds} (9 of 10), {np.mean(images):.2f} of the images (0.40)")


# Episodes ------------------------------------------------------------------------------------------------------------


def classic(problem: PruningProblem, plan: Any) -> tuple[float, float]:
    """Seconds to collect features and outputs of every layer that reads a group, and to fit a plan from them."""
    begin, modules = CLOCK(), dict(problem.model.named_modules())
    names = dict.fromkeys(name for group in problem.groups.prunable for name in group.consumers)
    layers = {n: m for n in names if isinstance(m := modules[n], Unfoldable) and Unfolding.of(m).groups == 1}
    seen: dict[str, list[Tensor]] = {name: [] for name in layers}

    def sample(name: str, inputs: Tensor) -> None:
        seen[name].append(sampled_rows(layers[name], inputs, 16, torch.Generator().manual_seed(0))[0])

    with sampling(problem.model, layers, sample):
        for arguments in calibration_calls(problem):
            problem.model(*arguments)
    found = {}
    for name, layer in layers.items():
        rows = torch.cat(seen.pop(name))
        found[name] = rows, rows @ Unfolding.of(layer).matrix(layer.weight.detach())[0].T
    collected = CLOCK() - begin
    begin, kept = CLOCK(), problem.groups.kept(plan)
    for name, (rows, outputs) in found.items():
        unfolding = Unfolding.of(layers[name])
        stays = kept.get((f"{name}.weight", int(not unfolding.transposed)))
        if stays is not None:
            torch.linalg.lstsq(rows[:, unfolding.columns(torch.from_numpy(stays))], outputs)
    return collected, CLOCK() - begin


def episode(env: FilterPruningEnv, action: float) -> float:
    """Seconds of a whole episode, reset included."""
    begin = CLOCK()
    env.reset()
    over = False
    while not over:
        over = env.step(np.array([action], dtype=np.float32))[2]
    return CLOCK() - begin


def network(name: str, problem: PruningProblem, limit: float, further: int, traced: float) -> None:
    """One network's line; making its problem took `traced` seconds."""
    images, begin = problem.baseline.n, CLOCK()
    env = FilterPruningEnv.from_problem(problem, LAYERWISE)
    prepare = traced + CLOCK() - begin
    first = episode(env, 0.0)
    whole, forward = [], []
    for number in range(1, further + 1):
        whole.append(episode(env, number / 100))
        begin = CLOCK()
        problem.evaluator.score(env.network.model, "control")
        forward.append(CLOCK() - begin)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    once, ratio = median(forward), median(a / b for a, b in zip(whole, forward, strict=True))
    played = f"{prepare:7.2f} {first - once:6.2f} {median(whole):8.2f} {once:8.2f} {ratio:10.2f} ({limit})"
    collected, fitted = classic(problem, env.network.plan)
    old = f"{collected:6.2f} + {fitted:.2f}, {1 + fitted / once:.2f}"
    line(f"{name:14} {images:6} {len(env.scope.names):6} {played} {peak:6.2f} GB   {old}")


def cifar(name: str, folder: Path, further: int) -> None:
    """A CIFAR-10 network on 2,000 control images and 512 for calibration."""
    weights = folder / "weights" / f"cifar10_{name}.pt"
    trained = weights.is_file()
    spec = ProblemSpec(model=name, data=str(folder / "cifar10.npz"), weights=str(weights) if trained else None)
    loaded = replace(spec, control_from="test", control_size=2000, calibration_size=512).build(untrained=True)
    begin = CLOCK()
    problem = PruningProblem(loaded.model, loaded.data)
    network(name if trained else name + " *", problem, CIFAR[name], further, CLOCK() - begin)


def large(name: str, further: int) -> None:
    """A torchvision network, untrained, on 256 control images of 224 pixels, and as many for calibration."""
    import torchvision

    def batches(seed: int) -> list[tuple[Tensor, Tensor]]:
        generator = torch.Generator().manual_seed(seed)
        small = (torch.randn(16, 3, 28, 28, generator=generator) for _ in range(16))
        return [
            (nn.functional.interpolate(one, 224, mode="bilinear"), torch.zeros(16, dtype=torch.long)) for one in small
        ]

    torch.manual_seed(0)
    model, control, calibration = torchvision.models.get_model(name, weights=None), batches(0), batches(1)
    begin = CLOCK()
    problem = PruningProblem(model, control=control, calibration=calibration)
    network(name + " *", problem, LARGE[name], further, CLOCK() - begin)


def main() -> None:
    """Print the figures, each part in a process of its own."""
    parser = argparse.ArgumentParser()
    parser.add_argument("parts", nargs="*")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--further", type=int, default=3)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--network", help=argparse.SUPPRESS)
    given = parser.parse_args()
    torch.set_num_threads(1)
    plain: dict[str, Any] = {"start": start, "tables": tables, "cell": cell, "engine": engine}
    if given.network in CIFAR:
        return cifar(given.network, given.data, given.further)
    if given.network in LARGE:
        return large(given.network, given.further)
    if given.data:
        plain["race"] = partial(race, given.data, given.seeds)
    if len(given.parts) == 1 and given.parts[0] in plain:
        return plain[given.parts[0]]()
    wanted = given.parts or [*plain, *(["cifar"] if given.data else []), "large"]
    jobs = [[part] for part in wanted if part in plain]
    networks = [*(CIFAR if "cifar" in wanted else ()), *(LARGE if "large" in wanted else ())]
    jobs += [["--network", name] for name in networks]
    options = ["--further", str(given.further), "--seeds", str(given.seeds)]
    options += ["--data", str(given.data)] if given.data else []
    for number, job in enumerate(jobs):
        if len(job) == 1:
            line(f"\n{race.__doc__ if job == ['race'] else plain[job[0]].__doc__}")
        elif number == 0 or len(jobs[number - 1]) == 1:
            line("\nEpisodes. Ratios are to `forward`; limits in brackets; classic: collecting + fitting, ratio")
            line(
                f"{'network':14} {'images':>6} {'groups':>6} {'prepare':>7} {'first':>6} {'further':>8} {'forward':>8} "
                f"{'ratio':>10} {'':>6} {'peak':>6}      classic"
            )
        subprocess.run([sys.executable, __file__, *job, *options], check=False)
    line("\n* untrained")


if __name__ == "__main__":
    main()
