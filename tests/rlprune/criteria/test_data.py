"""Criteria that look at data, against brute force on small networks."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from rlprune.channels import trace_channels
from rlprune.criteria import CriterionContext, get_criterion
from rlprune.criteria.gates import INITIALISERS, ImportanceWeights, fold_gates
from rlprune.errors import UserError
from rlprune.tasks import get_task

TASK = get_task("classification")


def network(norm=True):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 6, 3, padding=1),
        nn.BatchNorm2d(6) if norm else nn.Identity(),
        nn.ReLU(),
        nn.Conv2d(6, 5, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(5 * 25, 3),
    ).eval()
    if norm:
        for tensor in (model[1].weight, model[1].running_var):
            nn.init.uniform_(tensor, 0.5, 2.0)
        nn.init.normal_(model[1].bias)
    return model


def batches(n=3):
    torch.manual_seed(1)
    return [(torch.randn(8, 2, 5, 5), torch.randint(3, (8,))) for _ in range(n)]


def context(model, data=None, seed=0):
    data = batches() if data is None else data
    groups = trace_channels(model, data[0][0] if data else torch.randn(1, 2, 5, 5))
    return CriterionContext(model=model, groups=groups, seed=seed, task=TASK, batches=lambda: data)


DATA_CRITERIA = ["taylor", "importance_weights", "hrank", "reconstruction"]


@pytest.mark.parametrize("name", DATA_CRITERIA)
def test_the_network_comes_back_as_it_was(name):
    model = network().train()
    model[3].weight.requires_grad_(False)
    before = copy.deepcopy(model.state_dict())
    found = get_criterion(name).scores(context(model))
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert all(module.training for module in model.modules())
    assert [p.requires_grad for p in model.parameters()] == [n != "3.weight" for n, _ in model.named_parameters()]
    assert all(p.grad is None for p in model.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    again = get_criterion(name).scores(context(model))
    assert {k: v.tolist() for k, v in found.items()} == {k: v.tolist() for k, v in again.items()}
    assert {k: v.shape for k, v in found.items()} == {"0": (6,), "3": (5,)}


@pytest.mark.parametrize("name", DATA_CRITERIA)
def test_without_data_the_remedy_is_named(name):
    model = network()
    bare = CriterionContext(model=model, groups=trace_channels(model, torch.randn(1, 2, 5, 5)))
    with pytest.raises(UserError, match="looks at data"):
        get_criterion(name).scores(bare)


@pytest.mark.parametrize("norm", [True, False])
def test_taylor_is_the_mean_squared_gradient_of_real_gates(norm):
    model, data = network(norm), batches()
    gated = {"0": 1 if norm else 0, "3": 3}  # behind the norm, where there is one
    wanted = {"0": np.zeros(6), "3": np.zeros(5)}
    for images, labels in data:
        gates = {name: torch.ones(len(wanted[name]), requires_grad=True) for name in gated}
        handles = [
            model[place].register_forward_hook(lambda _, __, out, z=gates[name]: out * z.view(1, -1, 1, 1))
            for name, place in gated.items()
        ]
        loss = F.cross_entropy(model(images), labels)
        for name, gradient in zip(gates, torch.autograd.grad(loss, list(gates.values())), strict=True):
            wanted[name] += gradient.double().numpy() ** 2 / len(data)
        for handle in handles:
            handle.remove()
    found = get_criterion("taylor").scores(context(model, data))
    for name in wanted:
        assert found[name] == pytest.approx(wanted[name], rel=1e-3, abs=1e-12)


def test_taylor_uses_all_the_batches():
    model, data = network(), batches(2)
    one, other = (get_criterion("taylor").scores(context(model, [batch]))["0"] for batch in data)
    assert get_criterion("taylor").scores(context(model, data))["0"] == pytest.approx((one + other) / 2, rel=1e-4)
    with pytest.raises(UserError, match="no images"):
        get_criterion("taylor").scores(context(model, []))


def test_hrank_is_the_mean_rank_of_the_maps():
    model, data = network(), batches()
    with torch.no_grad():
        model[0].weight[2] = 0  # a constant map has rank 1, or 0 behind the ReLU
        images = torch.cat([x for x, _ in data])[:20]
        read = model[2](model[1](model[0](images)))
        last = model[3](read).relu()
    found = get_criterion("hrank", {"images": 20}).scores(context(model, data))
    for name, maps in (("0", read), ("3", last)):
        wanted = np.mean([[np.linalg.matrix_rank(m.numpy()) for m in image] for image in maps], axis=0)
        assert found[name] == pytest.approx(wanted)
    assert found["0"][2] <= 1


class TestImportanceWeights:
    @pytest.mark.parametrize("name", ["uniform", "logistic", "he", "lecun", "xavier"])
    def test_initialisers(self, name):
        values = INITIALISERS.get(name)(4000, 18, 54, np.random.default_rng(0))
        deviation = {"uniform": 12**-0.5, "logistic": 8**-0.5, "he": 3**-1, "lecun": 18**-0.5, "xavier": 6**-1}[name]
        assert values.shape == (4000,) and np.std(values) == pytest.approx(deviation, rel=0.08)
        assert np.mean(values) == pytest.approx(0.5 if name in ("uniform", "logistic") else 0.0, abs=0.03)
        found = get_criterion("importance_weights", {"initialiser": name, "epochs": 0}).scores(context(network()))
        assert (found["0"] >= 0).all() and len(set(found["0"])) == 6

    def test_untrained_gates_are_chance_and_follow_the_seed(self):
        one, other = (ImportanceWeights(epochs=0).scores(context(network(), seed=seed))["0"] for seed in (0, 1))
        assert not np.allclose(one, other)

    def test_a_step_follows_the_gradient_of_the_gate(self):
        model, data = network(), batches(1)
        criterion = ImportanceWeights(epochs=1, lr=0.05)
        start, end = ImportanceWeights(epochs=0).learn(context(model, data)), criterion.learn(context(model, data))
        gates = {name: gate.clone().requires_grad_() for name, gate in start.items()}
        x = F.conv2d(
            data[0][0],
            model[0].weight * gates["0.weight"].view(-1, 1, 1, 1),
            model[0].bias * gates["0.weight"],
            padding=1,
        )
        x = model[2](model[1](x))
        x = F.conv2d(
            x, model[3].weight * gates["3.weight"].view(-1, 1, 1, 1), model[3].bias * gates["3.weight"], padding=1
        )
        loss = F.cross_entropy(model[6](x.relu().flatten(1)), data[0][1])
        for name, gradient in zip(gates, torch.autograd.grad(loss, list(gates.values())), strict=True):
            moved = end[name] - start[name]  # Adam's first step is the learning rate in the gradient's sign
            assert torch.allclose(moved, -0.05 * gradient.sign(), atol=1e-4)

    def test_folding_keeps_the_function(self):
        model = network()
        gates = ImportanceWeights().learn(context(model))
        images = batches(1)[0][0]
        with torch.no_grad():
            hooks = [
                model[int(name[0])].register_forward_hook(lambda _, __, out, z=gate: out * z.view(1, -1, 1, 1))
                for name, gate in gates.items()
            ]
            wanted = model(images)
            for hook in hooks:
                hook.remove()
            fold_gates(model, context(model).groups, gates)
            torch.testing.assert_close(model(images), wanted)

    def test_learning_lowers_the_loss(self):
        model = network()
        criterion = ImportanceWeights(epochs=20, lr=0.05)
        data = batches()
        losses = []
        for gates in (ImportanceWeights(epochs=0).learn(context(model, data)), criterion.learn(context(model, data))):
            gated = copy.deepcopy(model)
            fold_gates(gated, context(model).groups, gates)
            with torch.no_grad():
                losses.append(sum(TASK.loss(gated, batch).item() for batch in data))
        assert losses[1] < losses[0]
