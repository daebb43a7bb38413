"""A model with two heads is never pruned on one of them in silence, and keeps both where it is told to."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import rlprune
from rlprune.data import load_data
from rlprune.problem import PruningProblem
from rlprune.spec import ProblemSpec

TWO = """
from torch import nn

class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 16, 3, stride=2), nn.BatchNorm2d(16), nn.ReLU(),
            nn.Conv2d(16, 32, 3, stride=2), nn.BatchNorm2d(32), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten())
        self.first, self.second = nn.Linear(128, 10), nn.Linear(128, 2)

    def forward(self, x):
        features = self.body(x)
        return self.first(features), self.second(features)
"""


def second(labels: torch.Tensor) -> torch.Tensor:
    return (labels * 7 // 3) % 2


@pytest.fixture(scope="module")
def two() -> nn.Module:
    """Trained on digits: the first head says which, the second something else about it."""
    scope: dict[str, type[nn.Module]] = {}
    exec(TWO, scope)
    torch.manual_seed(0)
    model = scope["Two"]()
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for epoch in range(8):
        for images, labels in load_data("digits").train.batches(64, seed=1, epoch=epoch):
            digit, other = model(images)
            optimizer.zero_grad()
            (F.cross_entropy(digit, labels) + F.cross_entropy(other, second(labels))).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return model.eval()


def test_a_second_output_is_spoken_of_before_any_pruning(two: nn.Module, tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="2 outputs and the task classification looks at one alone"):
        PruningProblem(two, load_data("digits"))
    (tmp_path / "two.py").write_text(TWO)
    torch.save(two.state_dict(), tmp_path / "w.pt")
    spec = ProblemSpec(model=f"{tmp_path}/two.py:Two", weights=str(tmp_path / "w.pt"))
    with pytest.warns(UserWarning, match="heads:0=classification;1=TASK"):
        spec.build()


def test_the_tolerance_is_kept_on_both_heads(two: nn.Module) -> None:
    data = load_data("digits")
    pools = [next(iter(split.batches(2000))) for split in (data.control, data.train)]
    control, train = ((images, torch.stack((labels, second(labels)), 1)) for images, labels in pools)
    task = "heads:0=classification;1=classification"
    result = rlprune.prune(two, control=control, train=train, task=task, tolerance=0.03, epochs=2, progress=False)
    assert result.macs < rlprune.count_macs(two, control[0][:1])

    def right(model: nn.Module) -> np.ndarray:
        with torch.no_grad():
            outputs = model(control[0])
        return np.array([float((outputs[k].argmax(1) == control[1][:, k]).float().mean()) for k in (0, 1)])

    assert (right(two) - right(result.model)).max() <= 0.03 + 1e-6
    assert result.record["pruned"]["percent"] and "worst of" in result.record["pruned"]["metric"]
