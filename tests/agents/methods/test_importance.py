"""Importance weights: the update is the gradient of the gates, and gates follow their filters."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from rlprune.agents.controllers.images import FixedImages
from rlprune.agents.controllers.importance import gate_gradient, gate_scores
from rlprune.channels import PruningPlan, mask_channels
from rlprune.criteria import lowest
from rlprune.criteria.gates import fold_gates


def test_the_gradient_is_that_of_the_gated_network(problem: Any) -> None:
    """By central differences on single gates, over the same images."""
    network = problem.base()
    names = [layer.weight for layer in network.groups.layers.values() if layer.name.startswith("convs")]
    generator = torch.Generator().manual_seed(1)
    gates = {name: torch.rand(len(network.model.get_parameter(name)), generator=generator) for name in names}
    few = FixedImages(problem, 50, seed=3)
    images, labels = next(iter(few.batches()))

    def loss(changed: dict[str, Any]) -> float:
        model = problem.base().model.double().eval()
        fold_gates(model, network.groups, {name: gate.double() for name, gate in changed.items()})
        with torch.no_grad():
            return float(F.cross_entropy(model(images.double()), labels))

    gradient = gate_gradient(problem, network, gates, few)
    for name, j in ((names[0], 2), (names[1], 5), (names[2], 0)):
        step = torch.zeros_like(gates[name]).double()
        step[j] = 1e-4
        up, down = ({**gates, name: gates[name].double() + sign * step} for sign in (1, -1))
        assert float(gradient[name][j]) == pytest.approx((loss(up) - loss(down)) / 2e-4, rel=1e-3, abs=1e-6)


def play_round(rule: Any, env: Any) -> None:
    number = len(env.history)
    while len(env.history) == number:
        action, _ = rule.predict(env.observation)
        env.step(action)


def test_a_round_takes_the_smallest_gates_of_all_layers(playing: Any) -> None:
    rule, env = playing("importance-weights", target=0.3, images=100, share=0.1, epsilon=1e3)
    counts = rule.plan()
    pool = sorted((abs(float(s)), name) for name, scores in env.scores.items() for s in scores)
    number = int(0.1 * len(pool))
    assert sum(counts.values()) == number
    assert counts == {n: sum(m == n for _, m in pool[:number]) for n in counts}


def test_gates_follow_their_filters_through_removals_and_files(playing: Any) -> None:
    rule, env = playing("importance-weights", target=0.3, images=100, share=0.1, epsilon=1e3, update_lr=0.0)
    play_round(rule, env)
    full = dict(rule.state_dict()["gates"])
    plan = env.network.plan
    current = gate_scores(rule._current(env.network), env.network.groups)
    for group in env.problem.groups.prunable:
        kept = [j for j in range(group.size) if j not in plan.removed.get(group.name, ())]
        weight = env.problem.groups.layers[group.producers[0]].weight
        np.testing.assert_allclose(current[group.name], full[weight].abs().numpy()[kept], rtol=1e-6)
    state = rule.state_dict()
    rule.load_state_dict(state)
    play_round(rule, env)
    assert len(env.history) == 2


def test_too_large_an_increase_of_the_loss_ends_it(playing: Any, problem: Any) -> None:
    """The increase is that of the gated network's loss over the images; here by masking instead of removing."""
    rule, env = playing("importance-weights", target=0.3, images=100, share=0.2, epsilon=1e3)
    counts, gates = rule.plan(), rule._current(env.network)
    images, labels = next(iter(rule._images.batches()))
    gated = problem.base().model
    fold_gates(gated, problem.groups, gates)
    plan = PruningPlan({name: lowest(env.scores[name], count) for name, count in counts.items()})
    with torch.no_grad():
        losses = [F.cross_entropy(model.eval()(images), labels) for model in (gated, masked(gated, problem, plan))]
    increase = rule._increase(counts, gates, rule._images)
    assert increase == pytest.approx(float(losses[1] - losses[0]), abs=1e-5)
    for epsilon, goes_on in ((increase + 1e-4, True), (max(increase - 1e-4, 0.0), increase <= 0)):
        rule, _ = playing("importance-weights", target=0.3, images=100, share=0.2, epsilon=max(epsilon, 0.0))
        assert bool(rule.plan()) == goes_on


def masked(model: Any, problem: Any, plan: PruningPlan) -> Any:
    return mask_channels(model, problem.groups, plan)


def test_folding_multiplies_the_gates_in(playing: Any) -> None:
    rule, env = playing("importance-weights", target=0.3, images=100)
    rule.plan()
    folded = rule.finish(env.network)
    gates = rule._current(env.network)
    before = env.network.model.convs[0].weight
    torch.testing.assert_close(
        folded.model.convs[0].weight, before * gates["convs.0.weight"].view(-1, 1, 1, 1), check_stride=False
    )
    assert before is not folded.model.convs[0].weight
