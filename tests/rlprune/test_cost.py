"""The analytic cost equals what torch's own counter says of the removed network."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from rlprune.channels import PruningPlan, remove_channels, trace_channels
from rlprune.cost import CostModel, count_macs, count_parameters, measure_latency
from rlprune.errors import UserError


def flops(model: nn.Module, x: torch.Tensor) -> int:
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model.eval()(x)
    return counter.get_total_flops() // 2


NETS = {
    "plain": nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 6, 3, stride=2), nn.Flatten(), nn.Linear(54, 5)),
    "grouped": nn.Sequential(nn.Conv2d(3, 12, 1), nn.Conv2d(12, 24, 3, groups=3), nn.Conv2d(24, 4, 1)),
    "depthwise": nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 16, 3, groups=8), nn.Conv2d(16, 4, 1)),
    "transposed": nn.Sequential(nn.Conv2d(3, 8, 3), nn.ConvTranspose2d(8, 12, 2, stride=2), nn.Conv2d(12, 4, 1)),
    "grouped transposed": nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ConvTranspose2d(8, 12, 2, stride=2, groups=2), nn.Conv2d(12, 4, 1)
    ),
    "depthwise transposed": nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ConvTranspose2d(8, 16, 2, stride=2, groups=8), nn.Conv2d(16, 4, 1)
    ),
}


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("batch", [1, 3])
def test_macs_and_parameters_are_exact_before_and_after_removal(name: str, batch: int) -> None:
    model, x = NETS[name].eval(), torch.randn(batch, 3, 9, 9)
    groups = trace_channels(model, x)
    assert groups.prunable
    cost = CostModel(groups)
    rng = np.random.default_rng(0)
    plan = PruningPlan({g.name: rng.permutation(g.size)[: g.allowed(g.size // 2)].tolist() for g in groups.prunable})
    assert plan
    pruned = remove_channels(model, groups, plan)
    assert cost.macs() == flops(model, x) == count_macs(model, x)
    assert cost.macs(plan.counts) == flops(pruned, x) == count_macs(pruned, x) == CostModel(groups.after(plan)).macs()
    assert cost.parameters(plan.counts) == count_parameters(pruned)
    array = [plan.count(g.name) for g in groups.prunable]
    assert cost.macs(array) == cost.macs(plan.counts) < cost.macs()


def test_activation_memory_counts_the_outputs_of_layers() -> None:
    model, x = NETS["depthwise transposed"], torch.randn(1, 3, 9, 9)
    groups = trace_channels(model, x)
    expected = 8 * 49 + 16 * 14 * 14 + 4 * 14 * 14
    assert CostModel(groups).activation_memory() == expected
    assert CostModel(groups).activation_memory({"0": 4}) == 4 * 49 + 8 * 14 * 14 + 4 * 14 * 14


def test_shares_and_mistakes() -> None:
    model, x = NETS["plain"], torch.randn(1, 3, 9, 9)
    cost = CostModel(trace_channels(model, x))
    assert cost.macs_share("0") == pytest.approx(3 * 8 * 9 * 49 / cost.macs())
    with pytest.raises(UserError, match="unknown channel group"):
        cost.macs({"9": 1})
    with pytest.raises(UserError, match="locked"):
        cost.macs({"4": 1})
    with pytest.raises(UserError, match="one entry for each"):
        cost.macs([1.0])


def test_latency_is_measured_and_flags_are_restored() -> None:
    model = NETS["plain"].train()
    latency = measure_latency(model, torch.randn(1, 3, 9, 9), min_run_time=0.01)
    assert latency.median_s > 0 and latency.n >= 1 and model.training


def test_neither_tracing_nor_counting_loads_torchs_compiler() -> None:
    code = (
        "import sys, torch; from torch import nn; from rlprune.channels import trace_channels; "
        "from rlprune.cost import count_macs; x = torch.ones(1, 3, 5, 5); "
        "model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 6, 3)); "
        "trace_channels(model, x); count_macs(model, x); sys.exit('torch._dynamo' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
