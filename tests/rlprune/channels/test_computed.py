"""Layers whose weight is computed, or that never run: they are in the report, locked, with a reason for people."""

from __future__ import annotations

import io
import re
import warnings

import pytest
import torch
from channel_helpers import random_plan
from channel_structures import LOCKED, STRUCTURES, conv, inputs_of
from rich.console import Console
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune

from rlprune.channels import ChannelGroups, remove_channels, trace_channels
from rlprune.cost import CostModel, count_macs
from rlprune.report.groups import print_groups

X = torch.randn(2, 3, 16, 16)
COMPUTED = sorted(name for name, reason in LOCKED.items() if reason.startswith("^its weight"))


@pytest.mark.parametrize("name", COMPUTED)
def test_the_layer_is_listed_and_only_its_neighbours_are_held_back(name: str) -> None:
    """Layer 4 is the computed one; 2 (or 3) is what it reads, and the first and the one behind it are free."""
    model = STRUCTURES[name]().eval()
    groups = trace_channels(model, *inputs_of(name))
    reasons = groups.report().reasons
    own = [group for group in groups if group.locked and re.search(LOCKED[name], group.locked)]
    assert len(own) == 1 and own[0].size == 6 and own[0].name.startswith("4")
    read = "3" if isinstance(model[3], nn.Linear) else "2"
    assert reasons[read].startswith("it meets layer 4") and "whose weight is computed" in reasons[read]
    assert [group.name for group in groups.prunable] == ["0", "6"]
    assert CostModel(groups).macs() == count_macs(model, *inputs_of(name))
    if name != "factored kernel":
        assert groups.layers["4"].macs > 0 and own[0].producers == ("4",)
    assert ChannelGroups.from_json(groups.to_json()).to_json() == groups.to_json()


def test_inspect_prints_them() -> None:
    groups = trace_channels(STRUCTURES["weight norm"](), X)
    console = Console(width=100, file=io.StringIO())
    with console.capture() as capture:
        print_groups(groups, CostModel(groups), console)
    assert re.search(r"locked 4: its weight is computed by the parametrization _WeightNorm", capture.get())


def test_what_the_reason_advises_makes_it_prunable() -> None:
    model = STRUCTURES["weight norm"]()
    parametrize.remove_parametrizations(model[4], "weight")
    assert [g.name for g in trace_channels(model, X).prunable] == ["0", "2", "4", "6"]


class Branches(nn.Module):
    """Layers in a branch that is not taken, unused ones, and one that only runs in training."""

    def __init__(self, trains: bool = True) -> None:
        super().__init__()
        self.trains = trains
        self.a, self.b, self.c, self.aux = conv(3, 8), conv(8, 8), conv(8, 4), conv(8, 3)
        self.rare, self.up = conv(8, 8), nn.ConvTranspose2d(8, 6, 2)
        self.unused = nn.utils.parametrizations.weight_norm(nn.Linear(8, 5))

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        if self.training and not self.trains:
            raise RuntimeError("evaluation only")
        y = self.b(self.a(x).relu())
        if len(x) > 100:
            y = self.up(self.rare(y))
        return (self.c(y), self.aux(y)) if self.training else self.c(y)


def test_layers_that_never_ran_are_listed() -> None:
    groups = trace_channels(Branches(), X)
    never = {g.name: g.size for g in groups if "never ran in the traced call" in str(g.locked)}
    assert never == {"rare": 8, "up": 6, "unused": 5}
    assert groups["aux"].locked == "it is an output of the model"
    assert [g.name for g in groups.prunable] == ["a", "b"]
    after = groups.after(random_plan(groups, 0.5))
    assert after["rare"].locked == groups["rare"].locked
    remove_channels(Branches(), groups, random_plan(groups, 0.5))(X)


def test_a_branch_that_did_not_run_fails_loudly_when_it_does() -> None:
    model = Branches().eval()
    groups = trace_channels(model, X)
    pruned = remove_channels(model, groups, random_plan(groups, 0.5))
    with pytest.raises(RuntimeError, match="expected input"):
        pruned(torch.randn(101, 3, 4, 4))


def test_layers_of_a_model_that_cannot_train_on_its_inputs_say_so() -> None:
    groups = trace_channels(Branches(trains=False), X)
    assert re.search(r"never ran .* training mode fails", str(groups["aux"].locked))


def test_weights_that_a_hook_left_behind_are_copied() -> None:
    """The older weight norm and torch's pruning masks keep the weight of the last call, with its graph."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        model = nn.Sequential(conv(3, 6), conv(6, 8), nn.ReLU(), nn.utils.weight_norm(conv(8, 4)))
    prune.l1_unstructured(model[0], "weight", 0.4)
    model(X)
    assert not model[0].weight.is_leaf and not model[3].weight.is_leaf
    groups = trace_channels(model, X)
    assert [g.name for g in groups.prunable] == ["0"]
    pruned = remove_channels(model, groups, random_plan(groups, 0.5))
    pruned(X).sum().backward()
    assert pruned[3].weight_v.grad is not None and pruned[0].weight_orig.shape[0] == 3
