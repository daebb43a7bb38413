"""Every structure: masked equals removed, locks name the operator, cost is exact, nothing needs retracing."""

from __future__ import annotations

import copy
import json
import pickle
import re

import pytest
import torch
from channel_helpers import difference, flop_macs, random_plan
from channel_structures import LOCKED, STRUCTURES, inputs_of

from rlprune.channels import ChannelGroups, remove_channels, trace_channels
from rlprune.channels.forward import Forward, tensors_in
from rlprune.cost import CostModel, count_parameters

UNLOCKABLE = "it is an output of the model"


@pytest.fixture(scope="module", params=sorted(STRUCTURES))
def case(request: pytest.FixtureRequest) -> tuple[str, torch.nn.Module, tuple, ChannelGroups]:
    torch.manual_seed(0)
    model = STRUCTURES[request.param]().eval()
    inputs = inputs_of(request.param)
    return request.param, model, inputs, trace_channels(model, *inputs)


def test_masked_equals_removed_and_the_locks_say_why(case: tuple) -> None:
    name, model, inputs, groups = case
    for seed, rate in enumerate((0.3, 0.6, None)):
        assert difference(model, groups, random_plan(groups, rate, seed), *inputs) < 1e-9
    reasons = [group.locked for group in groups if group.locked and group.locked != UNLOCKABLE]
    if name in LOCKED:
        assert any(re.search(LOCKED[name], reason) for reason in reasons), reasons
    else:
        assert not reasons
        assert groups.prunable


def test_cost_and_renumbering_are_those_of_the_removed_network(case: tuple) -> None:
    name, model, inputs, groups = case
    plan = random_plan(groups, 0.4)
    pruned = remove_channels(model, groups, plan)
    after = groups.after(plan)
    assert after.parameters == CostModel(groups).parameters(plan.counts) == count_parameters(pruned)
    if name not in ("attention by hand", "scaled dot product", "multi-head attention", "orthogonal", "recurrent"):
        assert flop_macs(pruned, *inputs) == CostModel(after).macs()  # these products count here only
    assert CostModel(groups).macs(plan.counts) == CostModel(after).macs()
    again = trace_channels(pruned, *inputs, check="off")
    assert {g.name: g.size for g in after.prunable}.items() <= {g.name: g.size for g in again.prunable}.items()
    second = random_plan(after, 0.3, seed=1)
    direct = remove_channels(model, groups, plan.then(second, groups))
    stepwise = remove_channels(pruned, after, second)
    for a, b in zip(direct.state_dict().values(), stepwise.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_groups_survive_pickle_copy_and_json(case: tuple) -> None:
    _, model, inputs, groups = case
    assert not tensors_in(vars(groups))
    plan = random_plan(groups, 0.5)
    forward = Forward(inputs)
    expected = forward(remove_channels(model, groups, plan).eval())
    for other in (
        pickle.loads(pickle.dumps(groups)),
        copy.deepcopy(groups),
        ChannelGroups.from_json(json.loads(json.dumps(groups.to_json()))),
    ):
        assert other.to_json() == groups.to_json()
        torch.testing.assert_close(
            _plain(forward(remove_channels(model, other, plan))), _plain(expected), rtol=0, atol=0
        )


def _plain(value: object) -> object:
    return vars(value)["scores"] if hasattr(value, "scores") else value
