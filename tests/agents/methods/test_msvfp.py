"""MSVFP prunes the layer whose loss suffers least, in the published steps."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from rlprune.agents.controllers.msvfp import step_count
from rlprune.channels import PruningPlan, mask_channels


def test_the_published_widths() -> None:
    widths = [512]
    while 512 - widths[-1] < 0.7 * 512:
        widths.append(widths[-1] - step_count(widths[-1], 0.1))
    assert widths[1:] == [461, 415, 373, 336, 302, 272, 245, 220, 198, 178, 160, 144]


def play_round(rule: Any, env: Any) -> dict[str, int]:
    number = len(env.history)
    while len(env.history) == number:
        action, _ = rule.predict(env.observation)
        env.step(action)
    return {name: count for name, count in env.history[-1]["removed"].items() if count}


def test_the_layer_of_the_smallest_loss_goes(playing: Any, problem: Any) -> None:
    """Against brute force: masked copies, the loss over the same images by hand."""
    rule, env = playing("msvfp", images=100, step=0.2)
    split = problem.data.train.subset(100, seed=0)
    images, labels = next(split.batches(100))
    losses = {}
    for name, size in (("convs.0", 8), ("convs.1", 12), ("convs.2", 10)):
        count = int(size * 0.2 + 0.5)
        norms = problem.model.get_submodule(name).weight.detach().square().sum((1, 2, 3)).sqrt()
        plan = PruningPlan({name: norms.argsort()[:count].tolist()})
        with torch.no_grad():
            masked = mask_channels(problem.model, problem.groups, plan).eval()
            losses[name, count] = float(F.cross_entropy(masked(images), labels))
    name, count = min(losses, key=lambda trial: losses[trial])
    assert play_round(rule, env) == {name: count}


def test_the_norm_ranks_until_half_of_the_target_then_similarity(playing: Any, problem: Any) -> None:
    rule, env = playing("msvfp", images=50, step=0.2)
    seen = []
    while env.history == [] or not env.history[-1]["macs"] <= 0.5 * problem.cost.macs():
        gone = 1 - problem.macs(env.network) / problem.cost.macs()
        rule.plan()
        weight = env.network.model.get_submodule("convs.1").weight.detach().double().flatten(1)
        norm, distance = weight.norm(dim=1).numpy(), torch.cdist(weight, weight).sum(1).numpy()
        early = gone < 0.25
        np.testing.assert_allclose(env.scores["convs.1"], norm if early else distance, rtol=1e-6)
        seen.append(early)
        play_round(rule, env)
    assert set(seen) == {True, False}


def test_capped_layers_are_left_alone(playing: Any) -> None:
    rule, env = playing("msvfp", images=50, cap=0.3, step=0.4, target=None)
    removed = [play_round(rule, env) for _ in range(4)]
    assert sorted(name for line in removed for name in line) == ["convs.0", "convs.1", "convs.2"]
    assert removed[-1] == {}


def test_it_retrains_after_so_many_points_and_remembers(playing: Any, problem: Any) -> None:
    rule, env = playing("msvfp", images=50, step=0.2, retrain_every=0.05, press=0.1)
    spent = problem.ledger.images_trained
    first = play_round(rule, env)
    assert first and problem.ledger.images_trained == spent, "nothing is gone yet"
    gone = rule.gone
    assert gone > 0.05
    play_round(rule, env)
    assert problem.ledger.images_trained > spent
    assert rule.state_dict() == {"retrained": gone}
