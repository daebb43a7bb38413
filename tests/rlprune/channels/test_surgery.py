"""Removal copies: the argument stays as it is, and the copy keeps what parameters are."""

from __future__ import annotations

import pytest
import torch
from channel_helpers import random_plan
from channel_structures import STRUCTURES, inputs_of
from torch import nn

from rlprune.channels import mask_channels, remove_channels, trace_channels
from rlprune.channels.copying import duplicate


def small() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.PReLU(8), nn.Conv2d(8, 16, 3, groups=8), nn.ConvTranspose2d(16, 6, 2),
        nn.InstanceNorm2d(6, affine=True), nn.Flatten(), nn.Linear(6 * 49, 9), nn.Linear(9, 2),
    )  # fmt: skip


@pytest.mark.parametrize("act", [remove_channels, mask_channels, lambda m, g, p: trace_channels(m, X)])
def test_the_model_comes_out_untouched(act) -> None:
    model = small()
    model[1].eval()
    flags = [m.training for m in model.modules()]
    before = {k: v.clone() for k, v in model.state_dict().items()}
    objects = [id(p) for p in model.parameters()]
    groups = trace_channels(model, X)
    act(model, groups, random_plan(groups, 0.5))
    assert [m.training for m in model.modules()] == flags and [id(p) for p in model.parameters()] == objects
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


X = torch.randn(2, 3, 10, 10)


def test_module_attributes_follow() -> None:
    model = small()
    groups = trace_channels(model, X)
    pruned = remove_channels(model, groups, random_plan(groups, 0.5))
    assert (pruned[0].out_channels, pruned[1].num_features, pruned[2].num_parameters) == (4, 4, 4)
    assert (pruned[3].in_channels, pruned[3].out_channels, pruned[3].groups) == (4, 8, 4)
    assert (pruned[4].in_channels, pruned[4].out_channels, pruned[5].num_features) == (8, 3, 3)
    assert (pruned[7].in_features, pruned[7].out_features) == (3 * 49, 5 if groups["7"].allowed(4) == 4 else 4)
    assert pruned[8].in_features == pruned[7].out_features and pruned[8].out_features == 2
    str(pruned)


def test_parameters_keep_what_they_are() -> None:
    model = small().to(memory_format=torch.channels_last).double()
    model[0].weight.requires_grad_(False)
    x = X.double()
    groups = trace_channels(model, x)
    for changed in (remove_channels, mask_channels):
        pruned = changed(model, groups, random_plan(groups, 0.5))
        assert all(p.dtype == torch.float64 for p in pruned.parameters())
        assert not pruned[0].weight.requires_grad and pruned[4].weight.requires_grad
        assert pruned[0].weight.is_contiguous(memory_format=torch.channels_last)
        assert all(type(p) is nn.Parameter for p in pruned.parameters())


def test_tied_parameters_stay_tied() -> None:
    model, inputs = STRUCTURES["tied weights"](), inputs_of("tied weights")
    groups = trace_channels(model, *inputs)
    pruned = remove_channels(model, groups, random_plan(groups, 0.5))
    assert pruned.c.weight is pruned.b.weight and pruned.c.weight.shape == (4, 4, 3, 3)


def test_hooks_and_training_flags_go_along() -> None:
    model = small().train()
    calls: list[int] = []
    model[0].register_forward_hook(lambda *_: calls.append(1))
    groups = trace_channels(model, X)
    calls.clear()
    pruned = remove_channels(model, groups, random_plan(groups, 0.3))
    assert pruned.training and pruned(X).requires_grad and calls == [1]


def test_pruning_masks_of_torch_are_followed() -> None:
    from torch.nn.utils import prune

    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
    prune.l1_unstructured(model[0], "weight", 0.4)
    groups = trace_channels(model, X)
    assert groups["0"].locked is None
    pruned = remove_channels(model, groups, random_plan(groups, 0.5))
    assert pruned[0].weight_orig.shape == pruned[0].weight_mask.shape == (4, 3, 3, 3)
    torch.testing.assert_close(pruned(X), mask_channels(model, groups, random_plan(groups, 0.5))(X))


def test_large_weights_are_cut_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 9, 3), nn.ConvTranspose2d(9, 7, 3), nn.Conv2d(7, 4, 3))
    model[1].to(memory_format=torch.channels_last)
    groups = trace_channels(model, torch.randn(1, 3, 12, 12))
    plan = random_plan(groups, 0.4)
    whole = remove_channels(model, groups, plan)
    monkeypatch.setattr("rlprune.channels.surgery.PART", 150)
    parts = remove_channels(model, groups, plan)
    for a, b in zip(whole.parameters(), parts.parameters(), strict=True):
        assert torch.equal(a, b) and a.stride() == b.stride()


def test_copies_share_what_the_originals_share() -> None:
    """Memory that two tensors lie in, and tables that two modules fill."""
    model = nn.Sequential(nn.ReLU(), nn.ReLU())
    memory = torch.arange(6.0)
    model[0].register_buffer("whole", memory)
    model[0].part = memory[2:4]
    model[1].register_buffer("same", memory.view(2, 3))
    model[0].seen = model[1].seen = {}
    for first in (model, duplicate(model)):
        copied = duplicate(first)
        copied[0].whole[2] = 7.0
        copied[0].seen["x"] = 1
        assert copied[0].part[0] == copied[1].same[0, 2] == 7.0 and copied[1].seen == {"x": 1}
        assert first[0].whole[2] == 2.0 and not first[0].seen
