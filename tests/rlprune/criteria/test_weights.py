"""Criteria that need no data, against brute force and with the methods' exact properties."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from rlprune.channels import PruningPlan, trace_channels
from rlprune.criteria import CriterionContext, get_criterion
from rlprune.errors import UserError
from rlprune.models.resnet import CifarResNet
from rlprune.spec import ProblemSpec


def scores(name, model, *inputs, reduction=0.0, **options):
    context = CriterionContext(model=model, groups=trace_channels(model, *inputs), reduction=reduction)
    return get_criterion(name, options).scores(context)


def l1(weight, axis=0):
    return weight.detach().abs().movedim(axis, 0).flatten(1).sum(1).double().numpy()


class Mobile(nn.Module):
    """Expand, depthwise, project."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3)
        self.expand = nn.Conv2d(4, 10, 1)
        self.depthwise = nn.Conv2d(10, 10, 3, groups=10)
        self.project = nn.Conv2d(10, 4, 1)
        self.head = nn.Conv2d(4, 2, 1)

    def forward(self, x):
        x = self.stem(x)
        return self.head(self.project(self.depthwise(self.expand(x).relu()).relu()))


class Fork(nn.Module):
    """One producer, two readers, one of them linear behind a flatten."""

    def __init__(self):
        super().__init__()
        self.make, self.read, self.line = nn.Conv2d(1, 5, 3), nn.Conv2d(5, 3, 3), nn.Linear(5 * 16, 2)

    def forward(self, x):
        x = self.make(x).relu()
        return self.read(x), self.line(x.flatten(1))


class TestFPSL:
    def setup_method(self):
        torch.manual_seed(0)

    def test_chain(self):
        model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 1))
        found = scores("fpsl", model, torch.randn(1, 3, 9, 9))
        assert found["0"] == pytest.approx(l1(model[0].weight) * l1(model[2].weight, 1) / 6)
        assert found["2"] == pytest.approx(l1(model[2].weight) * l1(model[4].weight, 1) / 4)

    def test_expand_depthwise_project(self):
        model = Mobile()
        found = scores("fpsl", model, torch.randn(1, 3, 9, 9))
        product = l1(model.expand.weight) * l1(model.depthwise.weight) * l1(model.project.weight, 1)
        assert found["expand"] == pytest.approx(product / 10)

    def test_a_depthwise_block_with_two_readers(self):
        class Both(Mobile):
            def __init__(self):
                super().__init__()
                self.second = nn.Conv2d(10, 3, 3)

            def forward(self, x):
                x = self.depthwise(self.expand(self.stem(x)).relu()).relu()
                return self.head(self.project(x)), self.second(x)

        model = Both()
        readers = l1(model.project.weight, 1) + l1(model.second.weight, 1)
        product = l1(model.expand.weight) * l1(model.depthwise.weight) * readers
        assert scores("fpsl", model, torch.randn(1, 3, 9, 9))["expand"] == pytest.approx(product / 10)

    def test_several_consumers_are_summed(self):
        model = Fork()
        found = scores("fpsl", model, torch.randn(1, 1, 6, 6))
        readers = l1(model.read.weight, 1) + model.line.weight.detach().abs().reshape(2, 5, 16).sum((0, 2)).numpy()
        assert found["make"] == pytest.approx(l1(model.make.weight) * readers / 5, rel=1e-5)

    def test_scaling_a_filter_up_and_its_readers_down_changes_nothing(self):
        model = Fork()
        before = scores("fpsl", model, torch.randn(1, 1, 6, 6))["make"]
        with torch.no_grad():
            factors = torch.tensor([0.1, 1.0, 2.0, 5.0, 100.0])
            model.make.weight *= factors.view(-1, 1, 1, 1)
            model.read.weight /= factors.view(1, -1, 1, 1)
            model.line.weight /= factors.repeat_interleave(16)
        assert scores("fpsl", model, torch.randn(1, 1, 6, 6))["make"] == pytest.approx(before, rel=1e-5)


class TestSimilarity:
    def test_sums_of_distances(self):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(3, 7, 3), nn.ReLU(), nn.Conv2d(7, 2, 1))
        filters = model[0].weight.detach().flatten(1).double()
        wanted = [sum(float((f - g).norm()) for g in filters) for f in filters]
        assert scores("similarity", model, torch.randn(1, 3, 5, 5))["0"] == pytest.approx(wanted)

    def test_the_filter_at_the_geometric_median_goes_first(self):
        model = nn.Sequential(nn.Conv2d(2, 5, 1, bias=False), nn.ReLU(), nn.Conv2d(5, 2, 1))
        with torch.no_grad():
            model[0].weight.copy_(torch.tensor([[9.0, 0], [-9, 0], [0.1, 0], [0, 9], [0, -9]]).view(5, 2, 1, 1))
        assert int(scores("similarity", model, torch.randn(1, 2, 5, 5))["0"].argmin()) == 2

    def test_residual_groups_weigh_their_layers_the_same(self):
        torch.manual_seed(0)
        model = CifarResNet(1)
        context = CriterionContext(model=model, groups=trace_channels(model, torch.randn(1, 3, 32, 32)))
        group = next(g for g in context.groups.prunable if len(g.producers) > 1)
        before = get_criterion("similarity").scores(context)[group.name]
        with torch.no_grad():
            model.get_submodule(group.producers[1]).weight.mul_(50.0)
        assert (np.argsort(get_criterion("similarity").scores(context)[group.name]) == np.argsort(before)).all()


class TestMSVFP:
    @pytest.mark.parametrize(
        ("reduction", "of"), [(0.0, "l2"), (0.24, "l2"), (0.25, "similarity"), (0.4, "similarity")]
    )
    def test_turns_at_half_the_target(self, reduction, of):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(3, 7, 3), nn.ReLU(), nn.Conv2d(7, 2, 1))
        x = torch.randn(1, 3, 5, 5)
        assert scores("msvfp", model, x, reduction=reduction, target=0.5)["0"] == pytest.approx(
            scores(of, model, x)["0"]
        )

    def test_a_problem_tells_how_much_is_gone(self):
        problem = ProblemSpec(control_size=60, calibration_size=40).build()
        half = {group.name: range(group.size // 2) for group in problem.groups.prunable}
        after = problem.base().remove(PruningPlan(half), problem.groups)
        for network, spec, of in (
            (problem.base(), "msvfp", "l2"),
            (after, "msvfp", "similarity"),
            (problem.base(), "msvfp:target=0.0", "similarity"),
        ):
            found, wanted = problem.scores(spec, network), problem.scores(of, network)
            assert all((found[name] == wanted[name]).all() for name in wanted)

    def test_bounds(self):
        with pytest.raises(UserError, match="target"):
            get_criterion("msvfp", {"target": 50})


class TestNormScale:
    def test_scales(self):
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 3, 1), nn.Conv2d(3, 2, 1))
        with torch.no_grad():
            model[1].weight.copy_(torch.tensor([0.5, -2.0, 0.0, 1.0]))
        found = scores("bn_scale", model.eval(), torch.randn(1, 3, 5, 5))
        assert found["0"] == pytest.approx([0.5, 2.0, 0.0, 1.0])
        assert found["3"] == pytest.approx(l1(model[3].weight))  # no norm: L1

    def test_residual_groups_use_every_norm(self):
        torch.manual_seed(0)
        model = CifarResNet(1).eval()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.weight, 0.1, 1.0)
        context = CriterionContext(model=model, groups=trace_channels(model, torch.randn(1, 3, 32, 32)))
        group = next(g for g in context.groups.prunable if len(g.producers) > 1)
        slots = [s for s in group.slots if s.role == "norm" and s.tensor.endswith("weight")]
        layers = [model.get_parameter(s.tensor).detach().double().numpy()[s.index[:, 0]] for s in slots]
        wanted = np.mean([x / x.mean() for x in layers], axis=0) * np.mean([x.mean() for x in layers])
        assert len(layers) >= 2
        assert get_criterion("bn_scale").scores(context)[group.name] == pytest.approx(wanted)
