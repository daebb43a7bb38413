"""A small network with batch norm on few digits, and the environment of a method on it."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from rlprune.agents.runs.healing import Heal
from rlprune.agents.runs.playing import cheap_repairs, controller_of, make_game
from rlprune.agents.runs.recipes import get_recipe
from rlprune.agents.runs.watching import Silent
from rlprune.data import load_data
from rlprune.envs import FilterPruningEnv
from rlprune.problem import PruningProblem


class Small(nn.Module):
    """Three convolutions with batch norm, and two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        widths = (1, 8, 12, 10)
        pairs = list(itertools.pairwise(widths))
        self.convs = nn.ModuleList(nn.Conv2d(i, o, 3, stride=2, padding=1) for i, o in pairs)
        self.norms = nn.ModuleList(nn.BatchNorm2d(o) for o in widths[1:])
        self.hidden, self.fc = nn.Linear(10, 16), nn.Linear(16, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = norm(conv(x)).relu()
        return self.fc(self.hidden(x.mean((2, 3))).relu())


def small_network() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = Small()
        for norm in network.norms:
            nn.init.uniform_(norm.weight, 0.5, 1.5)
    return network


@pytest.fixture(scope="session")
def problem() -> PruningProblem:
    return PruningProblem(small_network(), load_data("digits", control_size=60, calibration_size=40))


@pytest.fixture
def playing(problem: PruningProblem) -> Callable[..., tuple[Any, FilterPruningEnv]]:
    """The rule of a method, with some options, bound to the environment that its published recipe asks for."""

    def play(
        method: str, *, target: float | None = 0.5, press: float = 0.0, **options: Any
    ) -> tuple[Any, FilterPruningEnv]:
        recipe = replace(get_recipe(method, published=True), budget=target, options=options)
        recipe = recipe.change(press={"epochs": press})
        heal = Heal(cheap_repairs(recipe, Silent()), Silent(), lambda: False)
        env = make_game(problem, recipe, target, heal, {})
        rule: Any = controller_of(recipe, Silent())
        rule.bind(env)
        env.reset()
        return rule, env

    return play
