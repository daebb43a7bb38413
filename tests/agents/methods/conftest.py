"""A small network with batch norm on few digits, and the environment of a method on it."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from rlprune.agents import METHODS, make_controller
from rlprune.agents.runs.pruning import make_env
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
    """The rule of a method, with some options, bound to the environment that its recipe asks for."""

    def play(method: str, *, target: float | None = 0.5, **options: Any) -> tuple[Any, FilterPruningEnv]:
        settings = METHODS.get(method).settings
        settings = replace(settings, target_macs=target, controller_options=options)
        env = make_env(problem, settings)
        rule: Any = make_controller(settings.controller, options)
        rule.bind(env)
        env.reset()
        return rule, env

    return play
