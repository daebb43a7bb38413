"""Every method runs from one command, keeps the tolerance, and leaves a record that can be replayed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gymnasium
import pytest
import torch

from rlprune.agents import Recipe, get_recipe, list_recipes, list_rules, replay
from rlprune.agents.controllers.law import Aim, Standing
from rlprune.agents.rl.sb3 import make_agent, save_agent
from rlprune.agents.runs import engine
from rlprune.agents.runs.basesettings import BaseSettings
from rlprune.agents.runs.basetraining import train_base
from rlprune.agents.runs.prune import prune_problem
from rlprune.agents.runs.watching import Silent
from rlprune.cli import main
from rlprune.problem import PruningProblem
from rlprune.record import RunFolder
from rlprune.seals import comparable
from rlprune.spec import ProblemSpec
from rlprune.training.settings import TrainSettings

NETWORK = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(1, 16, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(16)
        self.conv2, self.bn2 = nn.Conv2d(16, 24, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(24)
        self.fc = nn.Linear(24 * 16, classes)

    def forward(self, x):
        x = self.bn1(self.conv1(x)).relu()
        x = nn.functional.max_pool2d(self.bn2(self.conv2(x)).relu(), 2)
        return self.fc(x.flatten(1))


def build(num_classes, in_channels):
    return Net(num_classes)
"""

QUICK = {  # what makes a method quick, and what its published schedule needs besides
    "pfec": ([], ["--finish.lr", "0.01"]),
    "fpsl": (["--fpsl.share", "0.1"], ["--lr", "0.02", "--finish.milestones", "1,2", "--epochs", "4"]),
    "msvfp": (["--msvfp.images", "100", "--msvfp.step", "0.2"], ["--msvfp.retrain-every", "0.1"]),
    "importance-weights": (
        ["--importance-weights.images", "200"],
        ["--importance-weights.share", "0.15", "--importance-weights.epsilon", "9"],
    ),
    "slimming": (["--press.epochs", "1"], []),
    "eagleeye": (["--random.episodes", "5"], []),
    "amc-rules": (["--controller", "random", "--random.episodes", "5"], []),
    "uniform": ([], []),
    "prc": (["--press.epochs", "0.5", "--prc.alpha", "0.2"], ["--repair.epochs", "1", "--rounds", "3"]),
    "error": ([], None),
    "response": ([], None),
    "sensitivity": (["--sensitivity.limit", "100"], None),
    "random": (["--random.episodes", "5"], None),
    "cem": (["--cem.episodes", "24"], None),
}
PUBLISHED = [name for name, (_, more) in QUICK.items() if more is not None]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: Any) -> list[str]:
    """The options of a small network trained here by `rlprune train`."""
    folder = tmp_path_factory.mktemp("base")
    (folder / "net.py").write_text(NETWORK)
    model = ["--model", f"{folder / 'net.py'}:build"]
    assert main(["train", *model, "--out", str(folder / "run"), "--epochs", "3", "--lr", "0.05", "--quiet"]) == 0
    return [*model, "--weights", str(folder / "run" / "model.pt")]


def test_every_method_is_tried_here() -> None:
    assert set(QUICK) == set(list_recipes())


def played(argv: list[str], folder: Path) -> dict[str, Any]:
    """The record of `rlprune prune`."""
    assert main(["prune", *argv, "--out", str(folder), "--quiet"]) == 0
    return RunFolder(folder).read()


@pytest.mark.parametrize("method", sorted(PUBLISHED))
def test_a_published_method_runs(method: str, trained: list[str], tmp_path: Path) -> None:
    goal = ["--target-macs", "0.6", "--tolerance", "0.03", "--finish.epochs", "2"]
    quick, more = QUICK[method]
    argv = ["--method", method, "--published", *trained, *goal, *quick, *(more or [])]
    record = played(argv, tmp_path / "run")
    assert record["status"] == "finished" and record["method"] == method
    assert record["drop"] <= 0.03
    assert record["pruned"]["macs"] < record["baseline"]["macs"]
    assert record["data"]["roles"]["control_from"] == "train", "the weights say which images they have seen"
    last = record["finish"][-1]
    assert last["drop"] <= last["drop_before"] and last["kept"] == (last["drop"] < last["drop_before"])
    assert replay(tmp_path / "run")["checks"]


@pytest.mark.parametrize("method", sorted(QUICK))
def test_a_method_seeks_the_tolerance(method: str, trained: list[str], tmp_path: Path) -> None:
    argv = ["--method", method, *trained, "--tolerance", "0.03", "--epochs", "2", *QUICK[method][0]]
    record = played(argv, tmp_path / "run")
    assert record["status"] == "finished" and record["method"] == method
    assert record["drop"] <= 0.03 and record["epochs"] <= 2.5 + 0.5 * len(record["rounds"])
    assert record["pruned"]["macs"] < record["baseline"]["macs"]
    assert replay(tmp_path / "run")["checks"]


def test_a_trained_agent_plays_by_amcs_rules(trained: list[str], tmp_path: Path) -> None:
    hyperparameters = {"policy": "MlpPolicy", "n_steps": 8, "batch_size": 8}
    agent = make_agent("ppo", gymnasium.make("rlprune/ToyPruning-v0"), hyperparameters, seed=0)
    save_agent(tmp_path / "agent.zip", agent, {"algorithm": "ppo", "hyperparameters": hyperparameters})
    argv = ["--method", "amc-rules", "--published", *trained, "--tolerance", "0.9"]
    argv += ["--controller", f"agent:{tmp_path / 'agent.zip'}", "--finish.epochs", "0"]
    record = played(argv, tmp_path / "run")
    assert record["pruned"]["macs"] <= 0.5 * record["baseline"]["macs"]
    assert replay(tmp_path / "run")["checks"]


def test_options_override_the_recipe(trained: list[str], tmp_path: Path) -> None:
    argv = ["--method", "uniform", "--published", *trained, "--tolerance", "0.5"]
    argv += ["--target-macs", "0.8", "--criterion", "random", "--finish.epochs", "0"]
    settings = recipe_of(played(argv, tmp_path / "run"))
    recipe = get_recipe("uniform", published=True)
    assert (settings.budget, settings.criterion, settings.finish.epochs) == (0.8, "random", 0.0)
    assert (settings.recovery, settings.once, settings.finish.lr) == (recipe.recovery, True, recipe.finish.lr)


def recipe_of(record: dict[str, Any]) -> Recipe:
    return Recipe.from_json({name: value for name, value in record["settings"].items() if name != "problem"})


def test_rates_can_be_given_instead_of_a_target(trained: list[str], tmp_path: Path) -> None:
    rates = tmp_path / "rates.json"
    rates.write_text('{"conv*": 0.5}')
    free = ["--published", "--target-macs", "none", "--finish.epochs", "0", "--tolerance", "1"]
    for name, options, wanted in (
        ("uniform", ["--uniform.rate", "0.25"], {"conv1": 0.25, "conv2": 0.25, "fc1": 0.25, "fc2": 0.25}),
        ("table", ["--controller", "table", "--table.file", str(rates)], {"conv1": 0.5, "conv2": 0.5}),
    ):
        record = played(["--method", "uniform", *trained, *options, *free], tmp_path / name)
        widths = {line["name"]: 1 - line["after"] / line["before"] for line in record["widths"]}
        for group, gone in widths.items():
            assert gone == pytest.approx(wanted.get(group, 0.0), abs=0.06), group


def test_fine_tuning_takes_what_is_left_of_all_epochs(trained: list[str], tmp_path: Path) -> None:
    argv = ["--method", "fpsl", "--published", *trained, "--tolerance", "1"]
    quick = ["--fpsl.share", "0.1", "--target-macs", "0.6", "--repair.epochs", "0.5", "--epochs", "4"]
    record = played([*argv, *quick], tmp_path / "run")
    between = sum(bool(sum(line["removed"].values())) for line in record["rounds"]) * 0.5
    assert 0 < between < 4 and record["finish"][0]["epochs"] == pytest.approx(4 - between, abs=0.3)
    assert record["epochs"] == pytest.approx(4, rel=0.05)
    images = len(ProblemSpec.from_json(record["settings"]["problem"]).build().data.train)
    assert record["cost"]["images_trained"] == pytest.approx(4 * images, rel=0.05)


def test_what_leaves_the_tolerance_is_tried_again_with_less(trained: list[str], tmp_path: Path) -> None:
    argv = ["--method", "uniform", "--published", *trained, "--target-macs", "0.3", "--recovery", "none"]
    record = played([*argv, "--finish.epochs", "0", "--tolerance", "0.05", "--attempts", "9"], tmp_path / "run")
    shares = [line["macs"] / record["baseline"]["macs"] for line in record["rounds"]]
    assert [line["attempt"] for line in record["rounds"]] == list(range(len(shares))) and len(shares) > 1
    assert shares == sorted(shares) and record["drop"] <= 0.05
    assert [line["round"] for line in record["rounds"]] == list(range(1, len(shares) + 1))


def test_outside_at_the_end_hands_back_the_last_inside(trained: list[str], tmp_path: Path) -> None:
    """No training repairs anything here, so the target cannot be reached inside the tolerance."""
    argv = ["--method", "fpsl", "--published", *trained, "--target-macs", "0.05", "--epochs", "none"]
    quick = ["--fpsl.share", "0.06", "--recovery", "none", "--finish.epochs", "0", "--tolerance", "0.05"]
    record = played([*argv, *quick], tmp_path / "run")
    assert record["drop"] <= 0.05 and record["stopped"] == "tolerance"
    drops = [record["baseline"]["control_score"] - line["score"] for line in record["rounds"]]
    assert drops[-1] > 0.05, "the end was outside"
    inside = [line["macs"] for line, drop in zip(record["rounds"], drops, strict=True) if drop <= 0.05]
    assert record["pruned"]["macs"] == inside[-1]


def test_a_tolerance_no_attempt_keeps_is_an_error(trained: list[str], tmp_path: Path, capsys: Any) -> None:
    argv = ["prune", "--method", "uniform", "--published", *trained, "--out", str(tmp_path / "run"), "--quiet"]
    goal = ["--target-macs", "0.1", "--tolerance", "0", "--attempts", "1"]
    assert main([*argv, *goal, "--recovery", "none", "--finish.epochs", "0"]) == 2
    assert "cannot be met" in capsys.readouterr().err


def test_the_constants_are_shown_as_options(capsys: Any) -> None:
    assert main(["methods", "msvfp", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["--msvfp.step"], shown["--msvfp.cap"], shown["--msvfp.images"]) == (0.1, 0.7, 10000)
    assert main(["methods", "--json"]) == 0
    assert set(json.loads(capsys.readouterr().out)) == set(list_recipes())
    for name in list_recipes():
        assert get_recipe(name).controller in list_rules()
        assert main(["methods", name]) == 0


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["--method", "fspl"], "did you mean 'fpsl'"),
        (["--check", "ends"], "did you mean 'end'"),
        (["--skip", "residul", "linear"], "did you mean 'residual'"),
        (["--finish.schedule", "cosin"], "did you mean 'cosine'"),
        (["--finish.lr", "0"], "lr is 0.0"),
        (["--attempts", "0"], "attempts is 0"),
        (["--method", "fpsl", "--fpsl.share", "2"], "share is 2.0"),
        (["--method", "msvfp", "--msvfp.images", "0"], "images is 0"),
        (["--controller", "agent:nowhere.zip"], "nowhere.zip"),
        (["--method", "fpsl", "--prc.alpha", "0.2"], "--prc.alpha is an option of 'prc'"),
        (["--method", "uniform", "--published", "--uniform.rate", "0.1"], "contradict each other"),
        (["--method", "error", "--published"], "published method"),
        (["--recipe", "nowhere.yml"], "nowhere.yml"),
        (["--recipe", "a.yml", "--method", "prc"], "both given"),
        (["--controller", "table", "--table.file", "nowhere.json"], "no such file"),
        (["--epochs", "-1"], "epochs is -1.0"),
        (["--criterion", "l1:combine=maxx"], "did you mean 'max'"),
    ],
)
def test_mistakes_are_named(argv: list[str], says: str, capsys: Any) -> None:
    assert main(["prune", *argv]) == 2
    assert says in capsys.readouterr().err


# Stopping and going on; tests/agents/test_pruning.py kills whole processes ------------------------------------------


class Stop(Exception):
    """Stands for a power cut."""


class Interrupts(Silent):
    """Stops a run at its n-th sign of life."""

    def __init__(self, after: int) -> None:
        self.left = after

    def round(self, line: dict[str, Any], base_macs: int, rounds_left: float | None) -> None:
        self.work("round")

    def work(self, what: str, done: float = 0.0, total: float = 1.0, detail: str = "") -> None:
        self.left -= 1
        if self.left == 0:
            raise Stop


FINISH = {"epochs": 3.0, "lr": 0.01}
RESUMED: dict[str, dict[str, Any]] = {
    "uniform": {"budget": 0.08, "tolerance": 0.02, "recovery": "none", "attempts": 9},
    "fpsl": {"budget": 0.6, "repair": {"lr": 0.02}, "share": 0.1, "epochs": 4.0},
    "msvfp": {"budget": 0.7, "images": 50, "step": 0.2, "retrain_every": 0.1},
    "importance-weights": {"budget": 0.6, "images": 100, "share": 0.1, "epsilon": 9.0},
    "prc": {"rounds": 3, "press": {"epochs": 0.5}, "repair": {"epochs": 0.5}},
}
LAW = {
    "prc": {"epochs": 4.0},
    "error": {"epochs": 3.0, "tolerance": 0.01},
    "msvfp": {"epochs": 3.0, "images": 50, "step": 0.2},
}


@pytest.fixture(scope="module")
def problem(trained: list[str]) -> PruningProblem:
    return ProblemSpec(model=trained[1], weights=trained[3], control_from="train").build()


@pytest.mark.parametrize(
    ("method", "published"), [*((name, True) for name in RESUMED), *((name, False) for name in LAW)]
)
def test_a_run_stopped_again_and_again_ends_bit_equal(
    method: str, published: bool, problem: PruningProblem, tmp_path: Path
) -> None:
    """Stopped inside training cycles too, since a watcher is told of every step of one."""
    recipe = get_recipe(method, published=published)
    if published:
        recipe = recipe.change(**{"finish": FINISH, "tolerance": 0.05, **RESUMED[method]})
    else:
        recipe = recipe.change(**{"tolerance": 0.03, **LAW[method]})
    whole = prune_problem(problem, recipe, folder=RunFolder(tmp_path / "whole")).record
    folder, stops = RunFolder(tmp_path / "stopped"), 0
    for after in (2, 9, 23, 12, 40, 31):
        try:
            prune_problem(problem, recipe, folder=folder, resume=True, watcher=Interrupts(after))
        except Stop:
            stops += 1
    assert stops > 1
    again = prune_problem(problem, recipe, folder=folder, resume=True)
    assert comparable(again.record) == comparable(whole)
    assert not [*folder.path.glob("finish-*"), *folder.path.glob("cycle-*")] and not folder.checkpoint_file.exists()
    if method == "uniform":
        assert len(whole["finish"]) > 1, "more than one attempt"


class Given:
    """Asks for the same rounds whatever happens."""

    def __init__(self) -> None:
        self.done = 0

    def aim(self, now: Standing) -> Aim | None:
        aims = Aim(0.7, 0.0, "tolerance"), Aim(0.06, 2.0, "tolerance"), Aim(0.08, 2.0, "setback")
        return aims[self.done] if self.done < len(aims) else None

    def learn(self, aim: Aim, now: Standing, line: Mapping[str, Any]) -> None:
        self.done += 1

    def state_dict(self) -> dict[str, Any]:
        return {"done": self.done}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.done = state["done"]


def test_a_run_that_grows_back_is_stopped_and_ends_bit_equal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first training ends outside, and the next begins with what it has learnt, also after a stop."""
    monkeypatch.setattr(engine, "law_of", lambda *_: Given())
    problem = ProblemSpec(calibration_size=128).build()
    recipe = get_recipe("uniform").change(tolerance=0.012, epochs=4.0, max_rate=0.9)
    whole = prune_problem(problem, recipe, folder=RunFolder(tmp_path / "whole")).record
    _, first, second = whole["rounds"]
    assert not first["accepted"] and second["regrown"] and first["harm"] > second["harm"]
    folder, stops = RunFolder(tmp_path / "stopped"), 0
    for after in (30, 40):
        try:
            prune_problem(problem, recipe, folder=folder, resume=True, watcher=Interrupts(after))
        except Stop:
            stops += 1
    assert stops > 1
    assert comparable(prune_problem(problem, recipe, folder=folder, resume=True).record) == comparable(whole)


def test_training_goes_on_bit_equal(trained: list[str], tmp_path: Path) -> None:
    settings = BaseSettings(model=trained[1], training=TrainSettings(epochs=4, lr=0.05))
    whole, folder = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "stopped")
    record = train_base(settings, whole)
    for after in (5, 12):
        with pytest.raises(Stop):
            train_base(settings, folder, resume=True, on_step=Interrupts(after).work)
    assert comparable(train_base(settings, folder, resume=True)) == comparable(record)
    weights = [torch.load(run.model_file, weights_only=True) for run in (whole, folder)]
    assert weights[0]["meta"] == weights[1]["meta"]
    for name, tensor in weights[0]["state_dict"].items():
        assert torch.equal(tensor, weights[1]["state_dict"][name]), name


@pytest.mark.slow  # the test below starts two processes as well, on a network that was pruned
def test_two_processes_train_one_network(trained: list[str], tmp_path: Path) -> None:
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    argv = [*trained[:2], "--epochs", "1", "--lr", "0.05", "--out", str(tmp_path / "two"), "--quiet"]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    command = [*launch, "-m", "rlprune.cli", "train", *argv]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    record = RunFolder(tmp_path / "two").read()
    assert record["status"] == "finished"
    one = BaseSettings(model=trained[1], training=TrainSettings(epochs=1, lr=0.05, nesterov=True))
    alone = train_base(one, RunFolder(tmp_path / "one"))
    assert record["losses"] == pytest.approx(alone["losses"], rel=0.1), "batch norm sees half of each batch"


def test_two_processes_fine_tune_a_pruned_network(trained: list[str], tmp_path: Path) -> None:
    argv = ["--method", "uniform", "--published", *trained, "--tolerance", "1", "--target-macs", "0.3"]
    record = played([*argv, "--recovery", "none", "--finish.epochs", "0"], tmp_path / "run")
    pruned = str(tmp_path / "run" / "model.pt")
    on = ["train", *trained[:2], "--weights", pruned, "--teacher", trained[3], "--distillation", "0.5"]
    how = ["--epochs", "2", "--lr", "0.02", "--quiet", "--out"]
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    command = [*launch, "-m", "rlprune.cli", *on, *how, str(tmp_path / "two")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert main([*on, *how, str(tmp_path / "one")]) == 0
    two, one = (RunFolder(tmp_path / name).read() for name in ("two", "one"))
    assert two["losses"] == pytest.approx(one["losses"], rel=0.1) and one["losses"][1] < one["losses"][0]
    assert one["test_score"] > record["pruned"]["test_score"]
    tuned = ProblemSpec(model=trained[1], weights=str(tmp_path / "two" / "model.pt")).build()
    assert tuned.cost.macs() == record["pruned"]["macs"]
    assert tuned.evaluator.score(tuned.model, "test").value == two["test_score"]


def test_a_network_and_its_teacher_come_together(trained: list[str], tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "out"
    for options in (["--distillation", "0.5"], ["--teacher", trained[3]]):
        assert main(["train", *trained[:2], *options, "--out", str(out)]) == 2
        assert "give both" in capsys.readouterr().err and not out.exists()


def test_a_training_is_no_pruning_and_is_left_alone(trained: list[str], tmp_path: Path, capsys: Any) -> None:
    folder = RunFolder(Path(trained[3]).parent)
    assert main(["prune", "--out", str(folder.path), "--resume"]) == 2
    assert "not a pruning" in capsys.readouterr().err
    assert main(["train", *trained[:2], "--out", str(folder.path)]) == 2
    assert "--resume" in capsys.readouterr().err
    assert main(["train", *trained[:2], "--out", str(folder.path), "--resume", "--epochs", "9"]) == 2
    assert "other settings" in capsys.readouterr().err


# What a trained network has seen ------------------------------------------------------------------------------------


def test_another_cut_takes_its_control_from_held_out_images(trained: list[str], capsys: Any) -> None:
    assert main(["evaluate", *trained, "--json"]) == 0
    same = json.loads(capsys.readouterr().out)
    assert same["control_size"] == 431, "30 % of the training images, which this training kept aside"
    assert main(["evaluate", *trained, "--seed", "1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["control_size"] == 359 // 2, "half of the held-out images"
    assert main(["evaluate", *trained, "--seed", "1", "--control-from", "train"]) == 2
    assert "another cut" in capsys.readouterr().err
