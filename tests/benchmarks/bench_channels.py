"""Time the channel engine beside a plain forward pass, and beside Torch-Pruning where that is installed.

python tests/benchmarks/bench_channels.py [MODEL ...]

Columns: one forward pass; tracing (without the check); the self-check and how many forward passes it made; removing
30 % of every group; pickling and deep-copying the groups; the share of MACs in prunable groups. For Torch-Pruning
(`pip install torch-pruning`): building its graph, pruning 30 %, the MACs of the layers that got narrower, and whether
the pruned network runs and computes what the full one computes with the same channels at zero.
"""

from __future__ import annotations

import argparse
import copy
import pickle
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parent))
from channel_coverage import macs_prunable, random_plan
from channel_models import build
from torch_pruning_side import columns

from rlprune.channels import ChannelGroups, remove_channels, trace_channels
from rlprune.channels.checking import Checker
from rlprune.channels.forward import Forward
from rlprune.cost import CostModel

MODELS = [
    "vgg16", "resnet18", "resnet50", "densenet121", "mobilenet_v2", "shufflenet_v2_x1_0", "convnext_tiny",
    "ssd300_vgg16", "fasterrcnn_resnet50_fpn", "fasterrcnn_resnet50_fpn@native",
]  # fmt: skip

CLOCK = time.perf_counter


def best(function: Callable[[], Any], repeats: int = 3) -> tuple[float, Any]:
    """The shortest of some runs, in seconds, and the result."""
    times = []
    for _ in range(repeats):
        start = CLOCK()
        result = function()
        times.append(CLOCK() - start)
    return min(times), result


def ours(model: nn.Module, inputs: tuple[Any, ...]) -> tuple[str, ChannelGroups]:
    """The columns of this engine."""
    with torch.no_grad():
        forward, _ = best(lambda: Forward(inputs)(model))
    trace, groups = best(lambda: trace_channels(model, *inputs, check="off"))
    checker = Checker(model, groups, Forward(inputs))
    check, failed = best(checker.failures, 1)
    groups = groups.with_locks(failed)
    plan = random_plan(groups, 0.3)
    remove, _ = best(lambda: remove_channels(model, groups, plan), 20)
    dump, _ = best(lambda: pickle.loads(pickle.dumps(groups)), 20)
    clone, _ = best(lambda: copy.deepcopy(groups), 20)
    cost = CostModel(groups)
    macs, _ = best(lambda: [cost.macs(plan.counts) for _ in range(100)])
    return (
        f"{forward:.2f} | {trace:.2f} | {check:.2f} ({checker.passes}) | {1e3 * remove:.0f} | {1e3 * dump:.1f} "
        f"| {1e3 * clone:.1f} | {10 * macs:.3f} | {100 * macs_prunable(groups):.1f} %",
        groups,
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", default=MODELS)
    parser.add_argument("--cpu", action="store_true", help="processor time instead of wall time, on a busy machine")
    parser.add_argument("--no-torch-pruning", dest="torch_pruning", action="store_false", help="only this engine")
    options = parser.parse_args()
    if options.cpu:
        global CLOCK
        CLOCK = time.process_time
        torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    print(
        "| model | forward s | trace s | check s (passes) | remove ms | pickle ms | deepcopy ms | MACs of a plan ms "
        "| MACs prunable | TP graph s | TP prune ms | TP MACs | TP result |"
    )
    print("|" + "---|" * 13)
    for name in options.models:
        model, inputs = build(name)
        own, groups = ours(model, inputs)
        other = columns(model, inputs, groups, CLOCK) if options.torch_pruning else "| | |"
        print(f"| {name} | {own} | {other} |", flush=True)


if __name__ == "__main__":
    main()
