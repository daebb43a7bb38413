"""What has to work on any device: the same groups as on the CPU, the same networks, training that goes on.

`python device_checks.py` runs every check on the second device of `second_device` and prints one line of JSON each. It
is a process of its own because a device, once registered, is there for all that runs later.
"""

from __future__ import annotations

import copy
import json
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils._pytree import tree_map

sys.path.insert(0, str(Path(__file__).parent))
from channel_helpers import random_plan
from channel_structures import STRUCTURES, conv, inputs_of

from rlprune.channels import ChannelGroups, mask_channels, remove_channels, trace_channels, transplant
from rlprune.channels.forward import Forward, tensors_in
from rlprune.cost import CostModel, count_macs

CHECKS: dict[str, Callable[[torch.device], None]] = {}


def check(function: Callable[[torch.device], None]) -> Callable[[torch.device], None]:
    CHECKS[function.__name__] = function
    return function


def moved(model: nn.Module, device: torch.device) -> nn.Module:
    """A copy of a model on a device, with the plain tensor attributes, which `Module.to` forgets."""
    plain = [value for child in model.modules() for value in vars(child).values() if isinstance(value, Tensor)]
    memo: dict[int, Any] = {id(t): t.detach().to(device) for t in [*plain, *model.buffers()]}
    for parameter in model.parameters():
        memo[id(parameter)] = nn.Parameter(parameter.detach().to(device), parameter.requires_grad)
    return copy.deepcopy(model, memo)


def what_it_offers(groups: ChannelGroups) -> list[dict[str, Any]]:
    """The groups; a locked one by name alone, since a device's own attention may lock by another operator."""
    return [group if group["locked"] is None else {"locked": group["name"]} for group in groups.to_json()["groups"]]


def structure(name: str, device: torch.device) -> None:
    """Traced, checked, masked and removed on a device as on the CPU."""
    torch.manual_seed(0)
    model = STRUCTURES[name]().eval()
    inputs = inputs_of(name)
    expected = trace_channels(model, *inputs)
    plan = random_plan(expected, 0.4)
    smaller = remove_channels(model, expected, plan)
    macs = count_macs(smaller, *inputs)
    with torch.no_grad():
        outputs = tensors_in(Forward(inputs)(smaller))
    there = tree_map(lambda t: t.to(device), inputs)
    model = moved(model, device)
    groups = trace_channels(model, *there)
    assert what_it_offers(groups) == what_it_offers(expected), (groups.report(), expected.report())
    assert CostModel(groups).macs() == CostModel(expected).macs()
    removed, masked = remove_channels(model, groups, plan), mask_channels(model, groups, plan)
    assert count_macs(removed, *there) == macs
    for tensor in [*removed.parameters(), *masked.parameters(), *removed.buffers(), *masked.buffers()]:
        assert tensor.device.type == device.type
    with torch.no_grad():
        for pruned in (removed, masked):
            found = tensors_in(Forward(there)(pruned))
            assert all(t.device.type == device.type for t in found)
            for a, b in zip(found, outputs, strict=True):
                torch.testing.assert_close(a.cpu(), b, rtol=1e-3, atol=1e-4)


# index lists and recurrent layers have no kernel on a device that is written in Python
for _name in sorted(STRUCTURES.keys() - {"indexed channels", "recurrent"}):
    CHECKS[f"structure: {_name}"] = lambda device, name=_name: structure(name, device)  # type: ignore[misc]


@check
def every_precision(device: torch.device) -> None:
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        model = nn.Sequential(conv(3, 8), nn.BatchNorm2d(8), nn.ReLU(), conv(8, 4)).to(device, dtype)
        x = torch.randn(2, 3, 8, 8).to(device, dtype)
        groups = trace_channels(model, x)
        assert [g.name for g in groups.prunable] == ["0"], groups.report()
        pruned = remove_channels(model, groups, random_plan(groups, 0.5))
        assert all(p.dtype == dtype and p.device.type == device.type for p in pruned.parameters())
        pruned(x)


@check
def training_goes_on(device: torch.device) -> None:
    """Momentum, AdamW's moments, an EMA copy and gradients follow onto the device's new parameters."""
    kinds: list[Callable[[Any], torch.optim.Optimizer]] = [
        lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, foreach=False),
        lambda p: torch.optim.AdamW(p, lr=0.01, foreach=False),
    ]
    for make in kinds:
        torch.manual_seed(0)
        model = nn.Sequential(conv(3, 8), nn.ReLU(), conv(8, 4), nn.Flatten(), nn.Linear(256, 3)).to(device)
        x = torch.randn(4, 3, 8, 8).to(device)
        optimizer = make(model.parameters())
        ema = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
        for _ in range(2):
            optimizer.zero_grad()
            model(x).square().mean().backward()
            optimizer.step()
            ema.update_parameters(model)
        groups = trace_channels(model, x)
        plan = random_plan(groups, 0.5)
        pruned = remove_channels(model, groups, plan)
        transplant(optimizer, model, pruned, groups, plan)
        smaller = transplant(ema, model, pruned, groups, plan)
        for parameter in pruned.parameters():
            for value in optimizer.state[parameter].values():
                if isinstance(value, Tensor) and value.ndim:
                    assert value.shape == parameter.shape and value.device.type == device.type
        before = float(pruned(x).detach().square().mean())
        for _ in range(5):
            optimizer.zero_grad()
            loss = pruned(x).square().mean()
            loss.backward()
            optimizer.step()
            smaller.update_parameters(pruned)
        assert float(loss.detach()) < before
        assert all(p.device.type == device.type for p in smaller.parameters())


@check
def mixing_devices_is_an_error(device: torch.device) -> None:
    """Else none of the other checks could fail."""
    try:
        torch.ones(3).to(device) + torch.ones(3)
    except RuntimeError:
        return
    raise AssertionError("the device takes CPU tensors")


def main() -> None:
    from second_device import setup

    device = setup()
    for name, function in CHECKS.items():
        try:
            function(device)
            error = None
        except Exception:
            error = traceback.format_exc()
        print(json.dumps([name, error]), flush=True)


if __name__ == "__main__":
    main()
