"""The sensitivity scan beside scoring every removed network, and beside a DataLoader loop over masked copies.

    RLPRUNE_TEST_DATA=FOLDER OMP_NUM_THREADS=1 python tests/benchmarks/bench_sensitivity.py [resnet56] [500]

FOLDER holds `cifar10.npz` and `weights/cifar10_resnet56.pt`; the second argument is the number of control images. The
scan, the scan in bfloat16 and the two others take turns, a third of the groups at a time, and processor time is
counted, so that what else the machine does falls on none of them. The loop over masked copies is what scripts do:
images through PIL and torchvision's transforms, batches of 256; it runs at three of the nine rates, which all cost it
the same, and is scaled up.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

import rlprune.scoring.sensitivity
from rlprune.channels import PruningPlan, mask_channels
from rlprune.criteria import lowest
from rlprune.scoring.sensitivity import RATES, scan
from rlprune.spec import ProblemSpec

MASKED = (0.2, 0.5, 0.8)


class Pictures(Dataset):
    """Images as `torchvision.datasets.CIFAR10` gives them, with the usual transforms."""

    def __init__(self, images: np.ndarray, labels: np.ndarray) -> None:
        self.images, self.labels = images, labels
        normalise = transforms.Normalize((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))
        self.transform = transforms.Compose([transforms.ToTensor(), normalise])

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int) -> tuple[torch.Tensor, int]:
        return self.transform(Image.fromarray(self.images[i])), int(self.labels[i])


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
        for rate in MASKED:
            count = base.groups[group].allowed(int(rate * base.groups[group].size))
            network = mask_channels(base.model, base.groups, PruningPlan({group: lowest(ranking[group], count)}))
            network.eval()
            with torch.no_grad():
                for images, labels in DataLoader(pictures, batch_size=256):
                    (network(images).argmax(1) == labels).sum().item()

    def timed(function) -> float:
        start = time.process_time()
        function()
        return time.process_time() - start

    names = [group.name for group in base.groups.prunable]
    local, spent = rlprune.scoring.sensitivity.LOCAL, {"ours": 0.0, "amp": 0.0, "scratch": 0.0, "masked": 0.0}
    for part in (names[i::3] for i in range(3)):
        rlprune.scoring.sensitivity.LOCAL = frozenset()
        spent["scratch"] += timed(lambda part=part: scan(problem, limit=limit, groups=part))
        rlprune.scoring.sensitivity.LOCAL = local
        spent["ours"] += timed(lambda part=part: scan(problem, limit=limit, groups=part))
        spent["amp"] += timed(lambda part=part: scan(problem, limit=limit, groups=part, amp=True))
        spent["masked"] += timed(lambda part=part: [masked(n) for n in part]) * len(RATES) / len(MASKED)
    times = f"{spent['ours']:.1f} s, {spent['amp']:.1f} s in bfloat16"
    print(f"{model}, {len(names)} groups x {len(RATES)} rates, {limit} images: {times}")
    for name, how in (("ours", "in float32"), ("amp", "in bfloat16 (--amp)")):
        scratch, loop = (spent[other] / spent[name] for other in ("scratch", "masked"))
        print(f"  {how}: {scratch:.2f} times faster than scoring removed networks (target: 1.8), ", end="")
        print(f"{loop:.2f} times faster than a DataLoader over masked copies (target: 5)")


if __name__ == "__main__":
    main()
