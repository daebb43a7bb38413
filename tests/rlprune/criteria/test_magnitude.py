"""Norms against brute force, chance, and how the layers of a group are combined."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from rlprune.channels import trace_channels
from rlprune.criteria import CriterionContext, get_criterion, list_criteria, lowest, plan_from_counts
from rlprune.errors import UserError
from rlprune.models.resnet import CifarResNet


def context(model, *inputs, seed=0):
    return CriterionContext(model=model, groups=trace_channels(model, *inputs), seed=seed)


def chain():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.ConvTranspose2d(6, 5, 2, stride=2), nn.Conv2d(5, 2, 1))


@pytest.mark.parametrize(("name", "power"), [("l1", 1), ("l2", 2)])
def test_norms(name, power):
    model = chain()
    scores = get_criterion(name).scores(context(model, torch.randn(1, 3, 8, 8)))
    assert scores["0"] == pytest.approx([float(f.norm(power)) for f in model[0].weight.detach()])
    assert scores["2"] == pytest.approx([float(model[2].weight.detach()[:, j].norm(power)) for j in range(5)])
    assert all(s.dtype == np.float64 for s in scores.values())


def test_linear_layers_are_ranked_too():
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(16, 5), nn.ReLU(), nn.Linear(5, 3))
    scores = get_criterion("l1").scores(context(model, torch.randn(1, 1, 4, 4)))
    assert scores["2"] == pytest.approx(model[2].weight.detach().abs().sum(1).numpy())


class TestResidualGroups:
    def setup_method(self):
        torch.manual_seed(1)
        self.model = CifarResNet(1)
        self.context = context(self.model, torch.randn(1, 3, 32, 32))
        self.group = next(g for g in self.context.groups.prunable if len(g.producers) > 1)
        modules = dict(self.model.named_modules())
        self.layers = [modules[n].weight.detach().abs().sum((1, 2, 3)).double().numpy() for n in self.group.producers]
        self.slots = [s for s in self.group.slots if s.role == "out" and s.tensor.endswith("weight")]
        self.layers = [f[s.index[:, 0]] for f, s in zip(self.layers, self.slots, strict=True)]

    def score(self, combine):
        return get_criterion("l1", {"combine": combine}).scores(self.context)[self.group.name]

    def test_the_default_weighs_every_layer_the_same(self):
        shares = np.mean([s / s.mean() for s in self.layers], axis=0)
        assert self.score("mean") == pytest.approx(shares * np.mean([s.mean() for s in self.layers]))
        assert get_criterion("l1").scores(self.context)[self.group.name] == pytest.approx(self.score("mean"))
        order = np.argsort(self.score("mean"))
        with torch.no_grad():  # making one layer's filters longer changes no ranking
            self.model.get_parameter(self.slots[1].tensor).mul_(100.0)
        assert (np.argsort(self.score("mean")) == order).all()

    def test_the_defaults_of_l2_and_fpsl_weigh_them_the_same_too(self):
        def rows(slot):
            weight = self.model.get_parameter(slot.tensor).detach().double().movedim(slot.dim, 0)
            return weight[torch.from_numpy(slot.index[:, 0])].flatten(1)

        def even(layers):
            return np.mean([s / s.mean() for s in layers], axis=0) * np.mean([s.mean() for s in layers])

        l2 = even([rows(slot).norm(dim=1).numpy() for slot in self.slots])
        assert get_criterion("l2").scores(self.context)[self.group.name] == pytest.approx(l2)
        weights = {layer.weight for layer in self.context.groups.layers.values()}
        readers = [s for s in self.group.slots if s.role == "in" and s.tensor in weights]
        read = np.sum([rows(slot).abs().sum(1).numpy() for slot in readers], axis=0)
        wanted = even(self.layers) * read / self.group.size
        assert get_criterion("fpsl").scores(self.context)[self.group.name] == pytest.approx(wanted)

    def test_other_ways(self):
        assert self.score("sum") == pytest.approx(np.sum(self.layers, axis=0))
        assert self.score("first") == pytest.approx(self.layers[0])
        largest = np.max([s / s.mean() for s in self.layers], axis=0)
        assert self.score("max") / self.score("max").max() == pytest.approx(largest / largest.max())
        with pytest.raises(UserError, match="did you mean 'mean'"):
            self.score("meen")


def test_chance_depends_on_the_seed_and_the_group_alone():
    model = chain()
    one = get_criterion("random").scores(context(model, torch.randn(1, 3, 8, 8)))
    torch.rand(5)
    again = get_criterion("random").scores(context(model, torch.randn(1, 3, 8, 8)))
    other = get_criterion("random").scores(context(model, torch.randn(1, 3, 8, 8), seed=1))
    assert all((one[name] == again[name]).all() for name in one)
    assert not (one["0"] == other["0"]).any() and not (one["0"][:5] == one["2"]).any()


def test_lowest():
    scores = np.array([3.0, 1.0, 2.0, 1.0])
    assert lowest(scores, 0) == () and lowest(scores, 3) == (1, 3, 2)
    for count in (-1, 5):
        with pytest.raises(UserError, match="between 0 and 4"):
            lowest(scores, count)
    with pytest.raises(UserError, match="NaN"):
        lowest(np.array([1.0, np.nan]), 1)


def test_a_plan_from_counts():
    found = context(chain(), torch.randn(1, 3, 8, 8))
    scores = {"0": np.arange(6.0)[::-1], "2": np.arange(5.0)}
    plan = plan_from_counts(found.groups, scores, {"0": 2, "2": 0})
    assert plan.removed == {"0": (4, 5)}
    with pytest.raises(UserError, match="min_channels"):
        plan_from_counts(found.groups, scores, {"0": 5})


def test_options_may_stand_behind_the_name():
    assert get_criterion("l1:combine=max") == get_criterion("l1", {"combine": "max"}) != get_criterion("l1")
    with pytest.raises(UserError, match="did you mean 'combine'"):
        get_criterion("l1:combin=max")
    with pytest.raises(UserError, match="did you mean 'max'"):
        get_criterion("l1:combine=maxx")


def test_names_and_options_are_checked():
    assert {"l1", "l2", "random"} <= set(list_criteria())
    with pytest.raises(UserError, match="did you mean 'l1'"):
        get_criterion("l11")
    with pytest.raises(UserError, match="criterion 'l1'"):
        get_criterion("l1", {"colour": 3})
