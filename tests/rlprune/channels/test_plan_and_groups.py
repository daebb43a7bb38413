"""Plans are checked and compose; groups lock, round and report."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from rlprune.channels import (
    KINDS,
    ChannelGroups,
    PruningPlan,
    check_kinds,
    mask_channels,
    remove_channels,
    trace_channels,
)
from rlprune.errors import UserError


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 12, 3), nn.ReLU(), nn.Conv2d(12, 4, 3)
    ).eval()


@pytest.fixture(scope="module")
def groups(model: nn.Module) -> ChannelGroups:
    return trace_channels(model, torch.randn(1, 3, 12, 12))


def test_plans_normalise_compare_and_hash() -> None:
    a, b = PruningPlan({"x": [3, 1], "y": []}), PruningPlan({"x": (1, 3)})
    assert a == b and hash(a) == hash(b) and a.count("x") == 2 and a.count("y") == 0 and bool(a)
    assert not PruningPlan() and PruningPlan.from_json(a.to_json()) == a != PruningPlan({"x": [1]})
    with pytest.raises(TypeError):
        a.removed["x"] = (2,)  # type: ignore[index]


@pytest.mark.parametrize(
    ("removed", "message"),
    [
        ({"0": [0, 0]}, "group '0': index 0 appears twice"),
        ({"0": [8]}, "group '0': index 8 is out of range"),
        ({"0": [-1]}, "group '0': index -1 is out of range"),
        ({"0": range(7)}, "group '0': 1 of 8 units would be left; at least 2"),
        ({"O": [1]}, "unknown channel group 'O'"),
        ({"5": [1]}, "group '5' is locked: it is an output"),
        ({"0": "ab"}, "group '0': 'ab' is not a list of integers"),
    ],
)
@pytest.mark.parametrize("apply", [remove_channels, mask_channels, lambda m, g, p: g.after(p)])
def test_bad_plans_name_the_group(model: nn.Module, groups: ChannelGroups, removed, message, apply) -> None:
    with pytest.raises(UserError, match=message):
        apply(model, groups, PruningPlan(removed))


def test_a_model_that_does_not_fit_is_refused(model: nn.Module, groups: ChannelGroups) -> None:
    plan = PruningPlan({"0": [1, 5]})
    pruned = remove_channels(model, groups, plan)
    with pytest.raises(UserError, match=r"shape .* use groups.after"):
        remove_channels(pruned, groups, plan)
    with pytest.raises(UserError, match="no tensor"):
        remove_channels(nn.Linear(3, 3), groups, plan)


def test_minimum_and_rounding_are_hard(model: nn.Module) -> None:
    groups = trace_channels(model, torch.randn(1, 3, 12, 12), min_channels=3, round_to=4)
    first, second = groups.prunable
    assert first.max_removable == 4 and second.max_removable == 8
    assert [first.allowed(n) for n in (0, 1, 3, 4, 7, 8)] == [0, 0, 0, 4, 4, 4]
    with pytest.raises(UserError, match="not a multiple of 4"):
        PruningPlan({"0": [1, 2]}).validate(groups)
    PruningPlan({"0": [1, 2, 3, 4]}).validate(groups)
    one = groups.with_minimum(1, 1, pattern="3")
    assert one["3"].max_removable == 11 and one["0"].max_removable == 4
    with pytest.raises(UserError, match="at least 1"):
        groups.with_minimum(0)


def test_keep_patterns_lock_and_unmatched_ones_are_mistakes(model: nn.Module) -> None:
    groups = trace_channels(model, torch.randn(1, 3, 12, 12), keep=["3"])
    assert [g.name for g in groups.prunable] == ["0"]
    assert "'3'" in str(groups["3"].locked) and groups["3"].max_removable == 0
    with pytest.raises(UserError, match="matches no channel group"):
        groups.lock(["layer*"])


def test_the_report_lists_every_lock(groups: ChannelGroups) -> None:
    report = groups.report()
    assert report.reasons == {"5": "it is an output of the model"} and len(report) == 1
    assert "5 (4): it is an output of the model" in str(report)
    assert report.by_reason() == {"it is an output of the model": 1}


def test_groups_are_a_sequence_with_names(groups: ChannelGroups) -> None:
    assert groups[0] is groups["0"] and len(groups) == 3 and "3" in groups and "4" not in groups
    assert groups.names == ("0", "3", "5") and [g.name for g in groups[:2]] == ["0", "3"]
    assert groups["0"].producers == ("0",) and groups["0"].consumers == ("3",)
    assert {(s.tensor, s.dim, s.role) for s in groups["0"].slots} == {
        ("0.weight", 0, "out"), ("0.bias", 0, "out"), ("1.weight", 0, "norm"), ("1.bias", 0, "norm"),
        ("1.running_mean", 0, "norm"), ("1.running_var", 0, "norm"), ("3.weight", 1, "in"),
    }  # fmt: skip
    with pytest.raises(UserError, match="did you mean"):
        groups["33"]


def test_an_empty_plan_changes_nothing(model: nn.Module, groups: ChannelGroups) -> None:
    assert groups.after(PruningPlan()) is groups
    same = remove_channels(model, groups, PruningPlan())
    for a, b in zip(model.parameters(), same.parameters(), strict=True):
        assert torch.equal(a, b) and a is not b


def test_what_stays_and_what_goes_are_the_two_halves(groups: ChannelGroups) -> None:
    plan = PruningPlan({"0": [1, 5], "3": [0]})
    kept, gone = groups.kept(plan), groups.removed_positions(plan)
    assert kept["0.weight", 0].tolist() == [0, 2, 3, 4, 6, 7] == kept["3.weight", 1].tolist()
    assert kept.keys() == gone.keys() == {(s.tensor, s.dim) for name in ("0", "3") for s in groups[name].slots}
    for (tensor, dim), positions in kept.items():
        assert sorted([*positions, *gone[tensor, dim]]) == list(range(groups.shapes[tensor][dim]))


def test_groups_survive_json(groups: ChannelGroups) -> None:
    data = json.loads(json.dumps(groups.to_json()))
    again = ChannelGroups.from_json(data)
    assert again.to_json() == groups.to_json() == data and again.layers == groups.layers


def test_kinds_of_groups_are_checked_by_name() -> None:
    check_kinds(["none", *KINDS])
    with pytest.raises(UserError, match="unknown kind of group 'residul'; did you mean 'residual'"):
        check_kinds(["residul"])
