"""How much of each model the channel engine can prune; writes tests/benchmarks/coverage.md.

python tests/benchmarks/channel_coverage.py

For every model: prunable and locked groups, the share of the MACs in layers that produce prunable channels, the MACs
left when 30 % of every prunable group goes, whether the removed network's outputs equal the masked one's (double
precision), how long tracing takes, and why groups are locked.
"""

from __future__ import annotations

import argparse
import copy
import re
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parent))
from channel_models import DETECTORS, FAMILIES
from channel_zoo import APPROXIMATE, Subject

from rlprune.channels import ChannelGroups, PruningPlan, mask_channels, remove_channels, trace_channels
from rlprune.channels.copying import shaken
from rlprune.channels.forward import Forward, tensors_in
from rlprune.channels.lockstep import close
from rlprune.cost import CostModel

HEAD = """# Coverage of the channel engine

Models as their libraries make them, source untouched, random weights; of other libraries than torchvision by
`pip install -e .[zoo]`. "MACs prunable": share of the multiply-accumulates in layers that produce channels of which
some can go; "of convolutions": among convolutions alone. "At 30 %": MACs left when 30 % of every prunable group
is removed at random. "Equal": the removed network's outputs equal the masked one's to 1e-7, relative, in double
precision (of detectors what their heads give, or detections in any order: those of untrained heads have equal scores).
Approximate groups change more than their
channels (the statistics of a layer normalisation), so that their table says whether the smaller network runs and gives
gradients instead; "hidden" are its linear layers that widen (MLPs) or make heads, and how many can be pruned.
"Passes": seconds of `trace_channels` on one thread (processor time), and those of one forward pass. Made by

    python tests/benchmarks/channel_coverage.py

"""
COLUMNS = (
    "| model | GMACs | prunable groups | locked | MACs prunable | of convolutions | at 30 % | {} | trace / forward "
    "| other locks |"
)


def random_plan(groups: ChannelGroups, rate: float) -> PruningPlan:
    """The same share of every prunable group, random units."""
    rng = np.random.default_rng(0)
    return PruningPlan(
        {g.name: rng.permutation(g.size)[: g.allowed(int(rate * g.size))].tolist() for g in groups.prunable}
    )


def macs_prunable(groups: ChannelGroups, kinds: tuple[str, ...] = ("conv", "conv_transpose", "linear")) -> float:
    """Share of the MACs in layers that produce channels of which some can go; `kinds` of layers that count."""
    producers = {name for group in groups.prunable if group.max_removable for name in group.producers}
    total = CostModel(groups).macs() if "linear" in kinds else 0
    total = total or sum(layer.macs for layer in groups.layers.values() if layer.kind in kinds)
    return sum(groups.layers[name].macs for name in producers if groups.layers[name].kind in kinds) / max(total, 1)


def _in_order(output: torch.Tensor, name: str) -> torch.Tensor:
    """Detections of equal score come in any order."""
    return output.sort(0)[0] if name in DETECTORS and output.ndim else output


def seconds(function: Callable[[], Any]) -> tuple[float, Any]:
    """Processor time of a call, and what it returns."""
    start = time.process_time()
    result = function()
    return time.process_time() - start, result


def outputs(model: nn.Module, forward: Forward, name: str) -> list[torch.Tensor]:
    """What a model computes; of a detector with one head what that gives, before boxes of equal score are left out."""
    given: list[Any] = []
    if name in DETECTORS and hasattr(model, "head"):
        model.head.register_forward_hook(lambda _module, _inputs, output: given.append(output))  # type: ignore[operator]
    with torch.no_grad():
        whole = forward.picked(forward(model))
    return list(tensors_in(given)) if given else whole


def equal(subject: Subject, groups: ChannelGroups, plan: PruningPlan, name: str) -> str:
    """Whether the removed network's outputs equal the masked one's."""
    double = copy.deepcopy(shaken(subject.model)).double()
    forward = Forward(subject.inputs, subject.kwargs, subject.options.get("outputs")).double()
    masked, removed = (
        outputs(one, forward, name)
        for one in (mask_channels(double, groups, plan), remove_channels(double, groups, plan))
    )
    same = len(masked) == len(removed) and all(
        a.shape == b.shape and close(*(_in_order(t, name) for t in (a, b)), 1e-7)
        for a, b in zip(masked, removed, strict=True)
    )
    return "yes" if same else "NO"


def runs(subject: Subject, groups: ChannelGroups, plan: PruningPlan) -> str:
    """Whether the removed network runs and gives gradients, and which widening layers can be pruned."""
    small = remove_channels(subject.model, groups, plan).train()
    sum(t.float().sum() for t in tensors_in(Forward(subject.inputs, subject.kwargs)(small))).backward()  # type: ignore[union-attr]
    able = {name for group in groups.prunable if group.max_removable for name in group.producers}
    hidden = [
        n
        for n, la in groups.layers.items()
        if la.kind == "linear" and la.shape[0] in (3 * la.shape[1], 4 * la.shape[1])
    ]
    return f"yes; {len(able.intersection(hidden))} of {len(hidden)} hidden"


def row(name: str, make: Callable[[], Subject]) -> str:
    """One line of the table."""
    torch.manual_seed(0)
    subject = make()
    model = subject.model.eval()
    with torch.no_grad():
        forward, _ = seconds(lambda: Forward(subject.inputs, subject.kwargs)(model))
    trace, groups = seconds(lambda: trace_channels(model, *subject.inputs, kwargs=subject.kwargs, **subject.options))
    plan = random_plan(groups, 0.3)
    cost = CostModel(groups)
    verdict = runs(subject, groups, plan) if subject.options.get("approximate") else equal(subject, groups, plan, name)
    words: Counter[str] = Counter()
    for reason, count in groups.report().by_reason().items():
        words[re.sub(r"^as in [^,]+, |[ ]?[(].*$|; numbers that .*$|: layer .*$", "", reason).strip()] += count
    words.pop("it is an output of the model", None)
    return (
        f"| {name} | {cost.macs() / 1e9:.2f} | {len(groups.prunable)} | {len(groups.report())} "
        f"| {100 * macs_prunable(groups):.1f} % | {100 * macs_prunable(groups, ('conv', 'conv_transpose')):.1f} % "
        f"| {100 * cost.macs(plan.counts) / cost.macs():.1f} % | {verdict} | {trace:.1f} s / {forward:.2f} s "
        f"| {'; '.join(f'{text} ({count})' for text, count in words.items()) or 'outputs only'} |"
    )


def main() -> None:
    """Write the table; of models that are named, print their lines."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("coverage.md"))
    parser.add_argument("models", nargs="*", help="print these alone; default: write all")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    lines = [HEAD]
    for family, makers in FAMILIES.items():
        chosen = {name: make for name, make in makers.items() if not options.models or name in options.models}
        columns = COLUMNS.format("trains" if makers is APPROXIMATE else "equal")
        lines += [f"## {family.capitalize()}\n", columns, "|" + "---|" * (columns.count("|") - 1)] if chosen else []
        for name, make in chosen.items():
            try:
                lines.append(row(name, make))
            except ImportError as error:
                lines.append(f"| {name} |" + f" not measured: {error} |")
            print(lines[-1], flush=True)
        lines.append("")
        if not options.models:
            options.out.write_text("\n".join(lines))


if __name__ == "__main__":
    main()
