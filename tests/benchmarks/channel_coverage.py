"""How much of each model the channel engine can prune; writes tests/benchmarks/coverage.md.

python tests/benchmarks/channel_coverage.py

For every model: prunable and locked groups, the share of the MACs in layers that produce prunable channels, the MACs
left when 30 % of every prunable group goes, whether the removed network's outputs equal the masked one's (double
precision), and why groups are locked.
"""

from __future__ import annotations

import argparse
import copy
import re
import sys
import warnings
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent))
from channel_models import DETECTORS, FAMILIES, build

from rlprune.channels import ChannelGroups, PruningPlan, mask_channels, remove_channels, trace_channels
from rlprune.channels.checking import close, shaken
from rlprune.channels.forward import Forward, tensors_in
from rlprune.cost import CostModel

HEAD = """# Coverage of the channel engine

Torchvision's models, source untouched, random weights. "MACs prunable": share of the multiply-accumulates in layers
that produce prunable channels. "At 30 %": MACs left when 30 % of every prunable group is removed at random. "Equal":
the removed network's outputs equal the masked one's to 1e-7, relative, in double precision (detections in any order,
for untrained heads give equal scores). Made by

    python tests/benchmarks/channel_coverage.py

"""


def random_plan(groups: ChannelGroups, rate: float) -> PruningPlan:
    """The same share of every prunable group, random units."""
    rng = np.random.default_rng(0)
    return PruningPlan(
        {g.name: rng.permutation(g.size)[: g.allowed(int(rate * g.size))].tolist() for g in groups.prunable}
    )


def macs_prunable(groups: ChannelGroups) -> float:
    """Share of the MACs in layers that produce prunable channels."""
    producers = {name for group in groups.prunable for name in group.producers}
    return sum(groups.layers[name].macs for name in producers) / CostModel(groups).macs()


def _in_order(output: torch.Tensor, name: str) -> torch.Tensor:
    """Detections of equal score come in any order."""
    return output.sort(0)[0] if name in DETECTORS and output.ndim else output


def row(name: str) -> str:
    """One line of the table."""
    model, inputs = build(name)
    groups = trace_channels(model, *inputs)
    plan = random_plan(groups, 0.3)
    cost = CostModel(groups)
    double, forward = copy.deepcopy(shaken(model)).double(), Forward(inputs).double()
    with torch.no_grad():
        masked = tensors_in(forward(mask_channels(double, groups, plan)))
        removed = tensors_in(forward(remove_channels(double, groups, plan)))
    equal = len(masked) == len(removed) and all(
        a.shape == b.shape and close(*(_in_order(t, name) for t in (a, b)), 1e-7)
        for a, b in zip(masked, removed, strict=True)
    )
    reasons = [
        f"{re.sub(r'[(].*[)]$', '', reason).strip()} ({count})"
        for reason, count in groups.report().by_reason().items()
        if reason != "it is an output of the model"
    ]
    left = cost.macs(plan.counts) / cost.macs()
    return (
        f"| {name} | {len(groups.prunable)} | {len(groups.report())} | {100 * macs_prunable(groups):.1f} % "
        f"| {100 * left:.1f} % | {'yes' if equal else 'NO'} | {'; '.join(reasons) or 'outputs only'} |"
    )


def main() -> None:
    """Write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("coverage.md"))
    parser.add_argument("models", nargs="*", help="default: all")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    lines = [HEAD]
    for family, names in FAMILIES.items():
        chosen = [name for name in names if not options.models or name in options.models]
        if not chosen:
            continue
        lines.append(f"## {family.capitalize()}\n")
        lines.append("| model | prunable groups | locked | MACs prunable | at 30 % | equal | other locks |")
        lines.append("|---|---|---|---|---|---|---|")
        for name in chosen:
            lines.append(row(name))
            print(lines[-1], flush=True)
        lines.append("")
    options.out.write_text("\n".join(lines))


if __name__ == "__main__":
    main()
