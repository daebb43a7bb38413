"""The sensitivity scan beside scoring every removed network, and beside a DataLoader loop over masked copies.

    RLPRUNE_TEST_DATA=FOLDER OMP_NUM_THREADS=1 python tests/benchmarks/bench_sensitivity.py [resnet56] [500]

FOLDER holds `cifar10.npz` and `weights/cifar10_resnet56.pt`; the second argument is the number of control images. The
three take turns, group by group, so that whatever else the machine does falls on all of them.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

import rlprune.sensitivity
from rlprune.channels import PruningPlan, mask_channels
from rlprune.criteria import lowest
from rlprune.problem import ProblemSpec
from rlprune.sensitivity import scan

RATES = (0.25, 0.5, 0.75)


class Pictures(Dataset):
    """Images as most scripts read them: one at a time, from uint8, normalised in Python."""

    def __init__(self, images: np.ndarray, labels: np.ndarray) -> None:
        self.images, self.labels = images, labels
        self.mean = torch.tensor([0.4914, 0.4822, 0.4465]).view(3, 1, 1)
        self.deviation = torch.tensor([0.2023, 0.1994, 0.2010]).view(3, 1, 1)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int) -> tuple[torch.Tensor, int]:
        image = torch.from_numpy(self.images[i]).permute(2, 0, 1).float().div(255)
        return (image - self.mean) / self.deviation, int(self.labels[i])


def main() -> None:
    """Measure."""
    torch.set_num_threads(1)
    folder = os.environ.get("RLPRUNE_TEST_DATA")
    if not folder:
        sys.exit("set RLPRUNE_TEST_DATA to the folder with cifar10.npz and weights/")
    model = sys.argv[1] if len(sys.argv) > 1 else "resnet56"
    limit = int(sys.argv[2]) if len(sys.argv) > 2 else 500
    file = Path(folder) / "cifar10.npz"
    problem = ProblemSpec(
        model=model,
        data=str(file),
        weights=str(Path(folder) / "weights" / f"cifar10_{model}.pt"),
        keep=("conv1", "layer?.?.conv2"),
    ).build()
    with np.load(file) as arrays:
        pictures = Pictures(arrays["test"][:limit], arrays["test_labels"][:limit])
    base = problem.base()
    ranking = problem.scores("l1", base)

    def masked(group: str) -> None:
        for rate in RATES:
            count = base.groups[group].allowed(int(rate * base.groups[group].size))
            network = mask_channels(base.model, base.groups, PruningPlan({group: lowest(ranking[group], count)}))
            network.eval()
            with torch.no_grad():
                for images, labels in DataLoader(pictures, batch_size=128):
                    (network(images).argmax(1) == labels).sum().item()

    def timed(function) -> float:
        start = time.perf_counter()
        function()
        return time.perf_counter() - start

    names = [group.name for group in base.groups.prunable]
    parts = [names[i : i + len(names) // 3] for i in range(0, len(names), len(names) // 3)]
    local, spent = rlprune.sensitivity.LOCAL, {"ours": 0.0, "scratch": 0.0, "masked": 0.0}
    spent["ours"] += timed(lambda: scan(problem, rates=RATES, limit=limit))
    for part in parts:
        rlprune.sensitivity.LOCAL = frozenset()
        spent["scratch"] += timed(lambda part=part: scan(problem, rates=RATES, limit=limit, groups=part))
        rlprune.sensitivity.LOCAL = local
        spent["masked"] += timed(lambda part=part: [masked(name) for name in part])
    spent["ours"] = (spent["ours"] + timed(lambda: scan(problem, rates=RATES, limit=limit))) / 2
    print(f"{model}, {len(names)} groups x {len(RATES)} rates, {limit} images: {spent['ours']:.1f} s")
    print(f"  faster than scoring removed networks: {spent['scratch'] / spent['ours']:.2f} times (target: 1.8)")
    print(f"  faster than a DataLoader over masked copies: {spent['masked'] / spent['ours']:.2f} times (target: 5)")


if __name__ == "__main__":
    main()
