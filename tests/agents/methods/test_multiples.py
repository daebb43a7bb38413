"""`--round-to` works with every method: widths stay multiples, and something goes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from rlprune.agents import get_recipe, list_recipes
from rlprune.agents.runs.prune import prune_problem
from rlprune.agents.runs.recipes import published_recipes
from rlprune.data import load_data
from rlprune.errors import UserError
from rlprune.problem import PruningProblem
from rlprune.training.settings import TrainSettings

MULTIPLE = 8
OPTIONS: dict[str, dict[str, Any]] = {
    "random": {"episodes": 2}, "cem": {"episodes": 2}, "msvfp": {"images": 32}, "fpsl": {"share": 0.03},
    "importance-weights": {"images": 32, "share": 0.02, "epsilon": 100.0}, "prc": {"alpha": 0.4},
}  # fmt: skip


@pytest.fixture(scope="module")
def make() -> Callable[..., PruningProblem]:
    data = load_data("digits", control_size=60, calibration_size=40)

    def problem(*widths: int) -> PruningProblem:
        layers: list[nn.Module] = []
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            for before, width in zip((1, *widths), widths, strict=False):
                layers += [nn.Conv2d(before, width, 3, stride=2, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
                nn.init.uniform_(layers[-2].weight, 0.5, 1.5)  # type: ignore[arg-type]
            network = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], 10))
        return PruningProblem(network, data, round_to=MULTIPLE)

    return problem


def quick(name: str, published: bool) -> Any:
    recipe = get_recipe(name, published=published)
    none = TrainSettings(epochs=0.0)
    changes: dict[str, Any] = {"tolerance": 1e9, "rounds": 12, "recovery": "none", "options": OPTIONS.get(name, {})}
    if recipe.controller in ("random", "cem"):
        changes["options"] = {"episodes": 2}
    if published:
        return recipe.change(**changes, budget=0.6, epochs=None, press=none, repair=none, finish=none)
    return recipe.change(**changes, epochs=0.0)


@pytest.mark.parametrize(
    ("name", "published"), [*((n, False) for n in list_recipes()), *((n, True) for n in published_recipes())]
)
def test_every_method_removes_down_to_multiples(name: str, published: bool, make: Any) -> None:
    result = prune_problem(make(24, 40, 21), quick(name, published), timed=False)
    widths = [group.size for group in result.groups.prunable]
    assert all(width % MULTIPLE == 0 for width, before in zip(widths, (24, 40, 21), strict=True) if width != before)
    assert result.macs < result.record["baseline"]["macs"]


@pytest.mark.parametrize("name", ["fpsl", "msvfp"])
def test_where_nothing_can_go_it_is_said_at_once(name: str, make: Any) -> None:
    with pytest.raises(UserError, match=r"a multiple of 8 \(round_to\); .* filters: lower round_to") as caught:
        prune_problem(make(8, 8), quick(name, published=True), timed=False)
    assert "raise max_rate" not in str(caught.value), "it is 1 already"
