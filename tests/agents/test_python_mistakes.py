"""Mistakes on the Python road: each is a UserError of one line that says what to give instead."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from torch import nn

import rlprune
from rlprune.agents import AgentSettings, Rule, load_agent, make_controller, run_episode, train
from rlprune.data import load_data
from rlprune.errors import UserError
from rlprune.models import create_model
from rlprune.tasks import get_task

IMAGES, LABELS = torch.rand(32, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(32) % 4
NET = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(128, 4))
CONTROL = (IMAGES, LABELS)
POOLED = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8),
                       nn.Flatten(), nn.Linear(8, 4))  # fmt: skip
SINGLE = {"train": [(IMAGES[i : i + 1], LABELS[i : i + 1]) for i in range(8)]}


class Broken:
    """A loader whose data set has a bug."""

    def __iter__(self) -> Iterator[Any]:
        yield CONTROL
        raise KeyError("row 7")


class Short:
    """A controller of one's own, of another make."""

    def predict(self, observation: Any) -> Any:
        return observation[:1]


class Blind(Rule):
    """A rule that does not say what it does."""


def raises(*_: Any) -> Any:
    raise ZeroDivisionError("division by zero")


def at_any_cost(**changes: Any) -> dict[str, Any]:
    """Arguments with which training is sure to be called."""
    return {"tolerance": None, "budget": 0.3, "recipe": "uniform", "recovery": "none", "epochs": 2, **changes}


PRUNE: list[tuple[dict[str, Any], str]] = [
    ({"task": 3}, "task is a int; it must be a name"),
    ({"task": dict}, "task is the class dict"),
    ({"control": (IMAGES, LABELS[:5])}, "control= has 32 inputs and 5 targets"),
    ({"control": Broken()}, "the data of control= failed .KeyError: 'row 7'"),
    ({"control": [CONTROL], "batch": raises}, "batch= failed .ZeroDivisionError"),
    ({"control": [CONTROL], "batch": 3}, "batch is 3; it must be a function"),
    ({"train": IMAGES}, "train= gives inputs alone; give pairs"),
    ({"control": IMAGES}, "control= gives inputs alone"),
    ({"control": (IMAGES * float("nan"), LABELS)}, "output holds NaN"),
    ({"control": (IMAGES.double(), LABELS)}, "torch.float64"),
    ({"control": [(IMAGES, ["a"] * 32)]}, "the targets are a list"),
    ({"control": (IMAGES[:0], LABELS[:0])}, "give the split at least one"),
    ({"control": "digits"}, "the data gives a str"),
    ({"control": (batch for batch in [CONTROL])}, "cannot be gone through twice"),
    ({"train": []}, "train= gives no batch"),
    ({"calibration": 3}, "calibration= is a int"),
    ({"evaluate": 3}, "evaluate is 3; it must be a function"),
    ({"evaluate": raises}, "evaluate= failed .ZeroDivisionError"),
    ({"evaluate": lambda: 1.0}, "evaluate= failed .TypeError"),
    ({"evaluate": lambda model: "good"}, "evaluate gave 'good'"),
    ({"evaluate": lambda model: float("inf")}, "evaluate gave inf"),
    ({"fit": 3}, "fit is 3; it must be a function"),
    (at_any_cost(train=(IMAGES, LABELS + 1)), "label 4 does not fit a model with 4 outputs"),
    ({**SINGLE, "model": POOLED}, "batch norms cannot be measured on the calibration data .ValueError"),
    (at_any_cost(**SINGLE, model=POOLED), "a step of training failed .ValueError"),
    ({"control": [{"images": IMAGES, "id": 3, "labels": LABELS}]}, "with images, id.*give batch=function"),
    ({"control": {"val": [CONTROL]}}, "control= is a dict of val; give one loader of it"),
    ({"control": list(zip(IMAGES, "abcd" * 8, strict=True))}, "the targets are a tuple; classification needs labels"),
    (at_any_cost(fit=raises), "fit= failed .ZeroDivisionError"),
    (at_any_cost(fit=lambda model: None), "fit= failed .TypeError"),
    ({"keep": 3}, "keep is 3; it must be a list"),
    ({"keep": "nothing"}, "'nothing' matches no channel group"),
    ({"round_to": 8.5}, "round_to is 8.5; it must be a whole number"),
    ({"min_channels": "2"}, "min_channels is '2'; it must be a whole number"),
    ({"seed": "a"}, "seed is a; it must be a whole number"),
    ({"device": 99}, "unknown device '99'"),
    ({"out": 3}, "out is 3; it must be the path of a folder"),
    ({"press": 3}, "press is 3; it must be a table"),
    ({"press": {"lrr": 0.1}}, "did you mean 'lr'"),
    ({"prc": {"alpa": 1}}, "did you mean 'alpha'"),
    ({"criterion": None}, "criterion is None; it must be text"),
    ({"recovery": ["lsq"]}, "recovery is .'lsq'.; it must be text"),
    ({"tolerance": True}, "tolerance is True; it must be a number"),
    ({"budget": "half"}, "budget is 'half'; it must be a number"),
    ({"recipe": 3}, "unknown method '3'"),
    ({"skip": 3}, "skip is 3; it must be a list"),
    ({"evaluate": lambda model: torch.ones(2)}, "evaluate gave tensor"),
    ({"contrl": CONTROL}, "unknown option 'contrl'; did you mean 'control'?"),
    ({"tolerance": 5}, "tolerance is 5, and accuracy lies in .0, 1.; 5 points are 0.05"),
    ({"tolerence": 0.1}, "did you mean 'tolerance'?"),
    ({"target_macs": 2.0}, "budget is 2.0"),
    ({"task": "multilabel", "control": (IMAGES, torch.full((32, 4), -1.0))}, "NaN for not known"),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "says"), PRUNE)
def test_pruning(arguments: dict[str, Any], says: str) -> None:
    given = {"model": NET, "control": CONTROL, "train": CONTROL, "progress": False, "epochs": 1, **arguments}
    with pytest.raises(UserError, match=says) as caught:
        rlprune.prune(**given)
    assert "\n" not in str(caught.value)


def problem() -> rlprune.PruningProblem:
    return rlprune.PruningProblem(NET, control=CONTROL, train=CONTROL)


OTHERS: list[tuple[Callable[[], Any], str]] = [
    (lambda: rlprune.PruningProblem(nn.Linear, control=CONTROL), "model is a type"),  # type: ignore[arg-type]
    (lambda: rlprune.trace_channels("lenet5", IMAGES), "model is a str; it must be a torch.nn.Module"),  # type: ignore
    (lambda: rlprune.trace_channels(NET), "missing 1 required positional argument"),
    (lambda: rlprune.count_macs(3, IMAGES), "model is a int"),  # type: ignore[arg-type]
    (lambda: rlprune.remove_channels(NET, problem().groups, {"0": [0]}), "plan is a dict"),  # type: ignore[arg-type]
    (lambda: rlprune.remove_channels(NET, problem().groups, rlprune.PruningPlan({"9": (0,)})), "unknown channel group"),
    (lambda: rlprune.PruningPlan([1]), "a plan of a list"),  # type: ignore[arg-type]
    (lambda: rlprune.PruningPlan({"0": (0.5,)}), "is not a list of integers"),  # type: ignore[dict-item]
    (lambda: rlprune.PruningProblem(nn.Sequential(nn.Conv2d(1, 8, 3)).to("meta"), control=CONTROL), "device meta"),
    (lambda: load_data(3), "data is 3; it must be text"),  # type: ignore[arg-type]
    (lambda: load_data("digits", normalise=3), "normalise is 3; it must be text or null"),  # type: ignore[arg-type]
    (lambda: load_data("digits", control_size="x"), "control_size is 'x'"),  # type: ignore[arg-type]
    (lambda: load_data("digits", seed="a"), "seed is a"),  # type: ignore[arg-type]
    (lambda: get_task(None), "unknown task 'None'"),  # type: ignore[arg-type]
    (lambda: create_model(None), "unknown model 'None'"),  # type: ignore[arg-type]
    (lambda: create_model("lenet5", num_classes="x"), "num_classes is 'x'"),  # type: ignore[arg-type]
    (lambda: create_model("lenet5", num_classes=0), "num_classes is 0"),
    (lambda: make_controller(None), "unknown controller 'None'"),  # type: ignore[arg-type]
    (lambda: gymnasium.make("rlprune/LayerwisePruning-v0", model=None), "model is a NoneType"),
    (lambda: rlprune.make_env("nothing", problem()), "unknown game 'nothing'"),
    (lambda: rlprune.make_env("iterative", "lenet5"), "problem is a str"),  # type: ignore[arg-type]
    (lambda: rlprune.make_env("iterative", problem(), bugdet=0.5), "did you mean 'budget'"),
    (lambda: rlprune.make_env("iterative", problem(), tolerance="x"), "tolerance is 'x'"),
    (lambda: rlprune.make_env("layerwise", problem(), budget=2), "budget is 2"),
    (lambda: rlprune.make_env("layerwise", problem(), reward="money"), "unknown reward 'money'"),
    (lambda: rlprune.make_env("layerwise", problem(), recovery=3), "recovery is a int"),
    (lambda: gymnasium.make("rlprune/LayerwisePruning-v0", problem=3), "problem is a int"),
    (lambda: make_controller("prc", {"alpha": "x"}), "alpha is 'x'; it must be a number"),
    (lambda: make_controller("prc", 3), "options of 'prc' is 3; it must be a table"),  # type: ignore[arg-type]
    (lambda: run_episode(3, make_controller("uniform")), "problem is a int"),  # type: ignore[arg-type]
    (lambda: train({"algorithm": "ppo"}), "settings is a dict; give rlprune.agents.AgentSettings"),  # type: ignore
    (lambda: train(AgentSettings(env="Nothing-v0")), "env is 'Nothing-v0'"),
    (lambda: train(AgentSettings(env_kwargs={"model": NET})), "model is a Sequential"),
    (lambda: train(AgentSettings(env="CartPole-v1", episodes=40)), "env is 'CartPole-v1', which prunes nothing"),
    (lambda: rlprune.make_env("layerwise", problem()).reset(seed="a"), "seed is a"),  # type: ignore[arg-type]
    (lambda: run_episode(problem(), Short()), "predict failed .TypeError.*it takes .observation, state"),  # type: ignore
    (lambda: run_episode(problem(), Blind()), "Blind has no count"),
    (lambda: load_agent(None), "the agent is None; it must be the path of a zip"),  # type: ignore[arg-type]
    (lambda: load_agent("tests"), "tests is a folder; it holds no agent.zip"),
    (lambda: AgentSettings(workers="2"), "workers is '2'; it must be a whole number"),  # type: ignore[arg-type]
    (lambda: AgentSettings(episodes="many"), "episodes is 'many'"),  # type: ignore[arg-type]
]  # fmt: skip


@pytest.mark.parametrize(("mistake", "says"), OTHERS)
def test_everything_else(mistake: Callable[[], Any], says: str) -> None:
    with pytest.raises(UserError, match=says) as caught:
        mistake()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("recovery", ["none", "bn"])
def test_a_last_batch_of_one_is_left_out(recovery: str) -> None:
    train = [(IMAGES[:31], LABELS[:31]), (IMAGES[31:], LABELS[31:])]
    given = {"train": train, "progress": False, **at_any_cost(recovery=recovery)}
    assert rlprune.prune(POOLED, control=CONTROL, **given).macs < rlprune.count_macs(POOLED, IMAGES[:1])


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_pruning_does_not_depend_on_the_callers_mode(mode: Callable[[], Any]) -> None:
    given = {"control": CONTROL, "train": CONTROL, "progress": False, **at_any_cost()}
    outside = rlprune.prune(NET, **given)
    with mode():
        inside = rlprune.prune(NET, **given)
    assert (inside.plan, repr(inside)) == (outside.plan, repr(outside))
    assert inside.model(IMAGES).requires_grad


def test_numbers_of_numpy_are_numbers() -> None:
    seven = rlprune.PruningProblem(NET, control=CONTROL, train=CONTROL, seed=np.int64(7))  # type: ignore[arg-type]
    assert type(seven.seed) is int
    env = rlprune.make_env("layerwise", seven)
    episodes = [run_episode(env, make_controller("uniform"), seed=seed) for seed in (3, np.int64(3))]  # type: ignore
    assert episodes[0] == episodes[1]


def test_results_are_written_to_files_alone(tmp_path: Path) -> None:
    result = rlprune.prune(NET, control=CONTROL, train=CONTROL, progress=False, **at_any_cost(epochs=0))
    for write in (result.save, result.report):
        with pytest.raises(UserError, match="a folder; give a file in it"):
            write(tmp_path)
        with pytest.raises(UserError, match="path is None; it must be the path of a file"):
            write(None)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def test_one_pattern_needs_no_list() -> None:
    assert "0" not in rlprune.PruningProblem(NET, control=CONTROL, keep="0").groups.prunable


def test_an_error_of_ones_own_code_keeps_where_it_came_from() -> None:
    with pytest.raises(UserError) as caught:
        rlprune.prune(NET, control=[CONTROL], batch=raises, progress=False)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
