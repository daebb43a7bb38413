"""How fast training is, as ratios measured side by side in one run.

    RLPRUNE_TEST_DATA=FOLDER OMP_NUM_THREADS=1 python tests/benchmarks/bench_training.py

FOLDER holds `cifar10.npz`. LeNet-5 on digits and ResNet-20 on CIFAR-10, a few steps of 128 images at a time, the ways
taking turns; processor time, the least of several. The bare loop is what a script does with its batches in memory as
tensors: forward, backward, a step of the optimizer.
"""

from __future__ import annotations

import copy
import os
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from rlprune.data import load_data
from rlprune.models import resolve_model
from rlprune.recovery import TrainSettings, train
from rlprune.tasks import get_task
from rlprune.training.pacing import choose_pace

TURNS = 5
SETTINGS = TrainSettings(epochs=1, lr=0.01, batch_size=128, augment=False, layout="contiguous", amp=False)
WAYS = {
    "contiguous": SETTINGS,
    "channels last": replace(SETTINGS, layout="channels_last"),
    "bfloat16": replace(SETTINGS, amp=True),
    "bfloat16, channels last": replace(SETTINGS, layout="channels_last", amp=True),
}


def bare(model: nn.Module, batches: list[tuple[torch.Tensor, torch.Tensor]], layout: torch.memory_format) -> None:
    """The plain loop."""
    network = copy.deepcopy(model).to(memory_format=layout).train()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
    for images, labels in batches:
        optimizer.zero_grad(set_to_none=True)
        loss = nn.functional.cross_entropy(network(images.contiguous(memory_format=layout)), labels)
        loss.backward()
        optimizer.step()


def measure(name: str, data: str, steps: int) -> None:
    """Print the ratios of one network."""
    splits, task = load_data(data), get_task("classification")
    model = resolve_model(name, num_classes=10, in_channels=splits.input_shape[0])
    split = splits.train.first(128 * steps)
    batches = list(split.batches(128))
    ways: dict[str, Callable[[], object]] = {
        key: lambda settings=settings: train(copy.deepcopy(model), task, split, settings, seed=0)
        for key, settings in WAYS.items()
    }
    ways["bare, contiguous"] = lambda: bare(model, batches, torch.contiguous_format)
    ways["bare, channels last"] = lambda: bare(model, batches, torch.channels_last)
    spent = dict.fromkeys(ways, float("inf"))
    for _ in range(TURNS):
        for key, way in ways.items():
            start = time.process_time()
            way()
            spent[key] = min(spent[key], time.process_time() - start)
    start = time.process_time()
    pace = choose_pace(model, task, batches[0], TrainSettings(), torch.device("cpu"))
    timing = time.process_time() - start
    print(f"{name}, {steps} steps of 128 images; seconds: { ({key: round(value, 3) for key, value in spent.items()}) }")
    print(
        f"  ours / bare loop, contiguous: {spent['contiguous'] / spent['bare, contiguous']:.3f} (target: at most 1.05)"
    )
    ratio = spent["channels last"] / spent["bare, channels last"]
    print(f"  ours / bare loop, channels last: {ratio:.3f} (target: at most 1.05)")
    print(f"  throughput, channels last / contiguous: {spent['contiguous'] / spent['channels last']:.2f} (target: 1.4)")
    print(f"  chosen: {pace} in {timing:.2f} s", flush=True)


def main() -> None:
    """Both networks."""
    torch.set_num_threads(1)
    folder = os.environ.get("RLPRUNE_TEST_DATA")
    if not folder:
        sys.exit("set RLPRUNE_TEST_DATA to the folder with cifar10.npz")
    measure("lenet5", "digits", 6)
    measure("resnet20", str(Path(folder) / "cifar10.npz"), 3)


if __name__ == "__main__":
    main()
