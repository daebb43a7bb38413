"""An agent is trained and run on a network it has never seen, from the command line; mistakes are one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rlprune.agents import TrainedAgent, load_agent, replay, run_episode
from rlprune.agents.commands.agents import levels
from rlprune.agents.commands.progress import Tenths
from rlprune.cli import main
from rlprune.envs import MixedPruningEnv
from rlprune.record import RunFolder

NETWORK = """
from torch import nn

class Net(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.conv2, self.bn2 = nn.Conv2d(8, 12, 3, padding=1), nn.BatchNorm2d(12)
        self.fc = nn.Linear(12 * 8 * 8, num_classes)

    def forward(self, x):
        x = nn.functional.max_pool2d(self.bn1(self.conv1(x)).relu(), 2)
        x = nn.functional.max_pool2d(self.bn2(self.conv2(x)).relu(), 2)
        return self.fc(x.flatten(1))

def build(num_classes, in_channels):
    return Net(num_classes)
"""
SMALL = ["--control-size", "200", "--calibration-size", "128"]
QUICK = [*SMALL, "--set", "n_steps=16", "--set", "batch_size=16", "--set", "n_epochs=2"]


@pytest.fixture(scope="module")
def unseen(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The options of a small network trained here."""
    folder = tmp_path_factory.mktemp("base")
    (folder / "net.py").write_text(NETWORK)
    model = ["--model", f"{folder / 'net.py'}:build"]
    assert main(["train", *model, "--out", str(folder / "run"), "--epochs", "2", "--lr", "0.05", "--quiet"]) == 0
    return [*model, "--weights", str(folder / "run" / "model.pt")]


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny PPO agent trained on LeNet-5, by rules of its own."""
    out = tmp_path_factory.mktemp("agents") / "tiny"
    argv = ["train-agent", *QUICK, "--timesteps", "48", "--budgets", "0.4:0.6:3", "--recovery", "bn"]
    assert main([*argv, "--max-rate", "0.8", "--out", str(out), "--quiet"]) == 0
    return out / "agent.zip"


def test_training_writes_an_agent_with_its_card(agent: Path) -> None:
    card = json.loads(agent.with_suffix(".json").read_text())
    assert card["algorithm"] == "ppo" and card["training"]["timesteps"] == 48
    kwargs = card["env"]["kwargs"]
    assert kwargs["budgets"] == [0.4, 0.5, 0.6] and kwargs["problems"] == [{"model": "lenet5"}]
    assert kwargs["common"]["recovery"] == "bn" and kwargs["common"]["control_size"] == 200
    assert [line["budget"] for line in card["metrics"]["deterministic"]] == [0.4, 0.5, 0.6]


def test_an_agent_runs_on_a_network_it_has_not_seen(agent: Path, unseen: list[str], tmp_path: Path) -> None:
    argv = ["episode", "--agent", str(agent), *unseen, "--budget", "0.6", "--out", str(tmp_path / "run"), "--quiet"]
    assert main(argv) == 0
    record = RunFolder(tmp_path / "run").read()
    assert record["status"] == "finished" and len(record["rounds"]) == 1
    assert record["pruned"]["macs"] <= 0.6 * record["baseline"]["macs"]
    settings = record["settings"]
    assert (settings["recovery"], settings["max_rate"]) == ("bn", 0.8), "the rules it was trained by"
    assert settings["skip"] == [] and settings["finish"]["epochs"] == 0
    assert replay(tmp_path / "run")["checks"]
    assert main([*argv, "--resume"]) == 0, "a finished run is handed back"
    assert main(["episode", "--resume", "--out", str(tmp_path / "run"), "--quiet"]) == 0


def test_with_a_tolerance_it_goes_on_until_that_is_spent(agent: Path, unseen: list[str], tmp_path: Path) -> None:
    """A run like any other then, with the agent as its controller; trained only if epochs are given."""
    argv = ["episode", "--agent", str(agent), *unseen, "--tolerance", "0.1", "--quiet"]
    assert main([*argv, "--out", str(tmp_path / "one")]) == 0
    one = RunFolder(tmp_path / "one").read()
    assert one["drop"] <= 0.1 and one["epochs"] == 0
    assert main([*argv, "--budget", "0.4", "--epochs", "2", "--repair.lr", "0.01", "--out", str(tmp_path / "two")]) == 0
    two = RunFolder(tmp_path / "two").read()
    assert 0 < two["epochs"] < 4 and two["drop"] <= 0.1
    assert two["pruned"]["macs"] >= 0.35 * two["baseline"]["macs"], "the budget is where it ends"


class Recorded:
    """An agent whose observations are written down."""

    def __init__(self, agent: TrainedAgent) -> None:
        self.agent, self.card, self.seen = agent, agent.card, list[list[float]]()

    def predict(self, observation: Any, *args: Any, **kwargs: Any) -> Any:
        self.seen.append(observation.tolist())
        return self.agent.predict(observation, *args, **kwargs)


ONE_SHOT = ["--method", "uniform", "--published", "--recovery", "bn", "--max-rate", "0.8", "--skip", "none"]


@pytest.mark.parametrize("goal", [[], ["--tolerance", "0.3"]])
@pytest.mark.parametrize("trained", [None, [0.3, 0.4]])
def test_an_episode_shows_what_the_training_showed(
    goal: list[str], trained: list[float] | None, agent: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A budget alone is always the same goal; tolerances that were drawn in training are told as they are."""
    loaded = load_agent(agent)
    kwargs = {**loaded.card["env"]["kwargs"], "tolerances": trained}
    known = {"tolerances": trained or [1.0], "errors": True}
    card = {**loaded.card, "training": {**loaded.card["training"], **known}}
    training_env = MixedPruningEnv(**kwargs)
    tolerance = {} if trained is None else {"tolerance": 0.3 if goal else 1.0}
    there = Recorded(TrainedAgent(loaded.model, card))
    run_episode(training_env, there, options={"problem": 0, "budget": 0.5, **tolerance})

    here = Recorded(there.agent)
    monkeypatch.setattr("rlprune.agents.runs.playing.make_controller", lambda *_: here)
    who = ["prune", "--controller", f"agent:{agent}", *ONE_SHOT, *goal, "--finish.epochs", "0"]
    argv = [*(who if goal else ["episode", "--agent", str(agent)]), *SMALL, "--budget", "0.5", "--quiet"]
    assert main([*argv, "--out", str(tmp_path / "run")]) == 0
    assert here.seen == there.seen and len(here.seen) == 3


def test_the_best_of_some_episodes(agent: Path, tmp_path: Path) -> None:
    argv = ["episode", "--agent", str(agent), *SMALL, "--budget", "0.5", "--quiet", "--out"]
    records = []
    for name, more in {"one": [], "five": ["--samples", "5"], "again": ["--samples", "5"]}.items():
        assert main([*argv, str(tmp_path / name), *more]) == 0
        records.append(RunFolder(tmp_path / name).read())
    one, five, again = records
    assert not one["samples"] and five["samples"] == again["samples"] and five["plan"] == again["plan"]
    tried = [line["score"] for line in five["samples"]]
    assert len(tried) == 5 and five["rounds"][0]["score"] == max(tried)
    assert tried[0] == one["rounds"][0]["score"], "the deterministic episode is one of them"
    assert all(line["macs_share"] <= 0.5 for line in five["samples"])
    counts = [line["evaluations"] for line in five["samples"]]
    assert counts == sorted(counts)
    distinct = counts[-1] - counts[0] + 1
    assert five["cost"]["evaluations"] == one["cost"]["evaluations"] + distinct - 1, "every network scored is counted"
    assert main([*argv, str(tmp_path / "five"), "--resume"]) == 0


def test_other_streams_of_a_search(unseen: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = [
        "episode",
        "--controller",
        "random",
        "--random.episodes",
        "2",
        *unseen,
        *SMALL,
        "--budget",
        "0.5",
        "--quiet",
    ]
    assert main([*argv, "--samples", "3", "--out", str(tmp_path / "run")]) == 0
    tried = RunFolder(tmp_path / "run").read()["samples"]
    assert len(tried) == 3 and len({line["macs_share"] for line in tried}) > 1
    assert main(["episode", "--controller", "uniform", "--samples", "3"]) == 2
    assert "every episode of this Uniform is the same" in capsys.readouterr().err


def test_a_rule_plays_the_same_game(unseen: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["episode", "--controller", "random", "--random.episodes", "3", *unseen, "--budget", "0.6", "--json"]
    assert main([*argv, "--out", str(tmp_path / "run")]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["settings"]["options"] == {"episodes": 3, "racing": True}
    assert record["pruned"]["macs"] <= 0.6 * record["baseline"]["macs"]


def test_several_networks_workers_and_resuming(
    unseen: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, model, _, weights = unseen
    out = tmp_path / "agent"
    argv = ["train-agent", *QUICK, "--models", "lenet5", f"{model}={weights}", "--episodes", "6", "--workers", "2"]
    argv += ["--tolerances", "0.01,0.05", "--budgets", "0.5", "--set", "n_steps=8", "--out", str(out)]
    assert main(argv) == 0
    shown = capsys.readouterr()
    assert "lenet5" in shown.out and "episode 6" in shown.err and str(out / "agent.zip") in shown.out
    assert main([*argv, "--quiet"]) == 2, "it is there already"
    assert "--resume" in capsys.readouterr().err
    assert main(["train-agent", "--resume", "--out", str(out), "--json", "--quiet"]) == 0
    assert json.loads(capsys.readouterr().out)["training"]["workers"] == 2
    assert main(["train-agent", "--resume", "--out", str(out), "--budgets", "0.6"]) == 2
    assert "other settings" in capsys.readouterr().err
    assert {json.loads(line)["tolerance"] for line in (out / "episodes.jsonl").read_text().splitlines()} <= {0.01, 0.05}


def test_lists_and_ranges() -> None:
    assert levels("budgets", ["0.3:0.7"]) == [0.3, 0.4, 0.5, 0.6, 0.7]
    assert levels("budgets", ["0.3:0.5:3", "0.9"]) == [0.3, 0.4, 0.5, 0.9]


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["train-agent", "--algo", "ppoo"], "'ppo'"),
        (["train-agent", "--models", "lenet"], "'lenet5'"),
        (["train-agent", "--models", "lenet5=nowhere.pt"], "nowhere.pt"),
        (["train-agent", "--data", "nowhere.npz"], "nowhere.npz"),
        (["train-agent", "--budgets", "0.3:1.7"], "0.3:1.7"),
        (["train-agent", "--budgets", "0"], "budget"),
        (["train-agent", "--budgets", "0.3:0.7:x"], "A:B:STEPS"),
        (["train-agent", "--models", ","], "problems is empty"),
        (["train-agent", "--reward", "gains"], "'gain'"),
        (["train-agent", "--workers", "0"], "workers"),
        (["train-agent", "--preset", "nowhere.yml"], "nowhere.yml"),
        (["train-agent", "--set", "n_steps"], "NAME=VALUE"),
        (["train-agent", "--set", "nonsense=1", *SMALL], "nonsense"),
        (["train-agent", "--resume"], "--out"),
        (["episode", "--controller", "uniform", "--samples", "0"], "samples"),
        (["episode", "--agent", "a.zip", "--controller", "uniform"], "both"),
        (["episode", "--agent", "nowhere.zip"], "nowhere.zip"),
        (["episode", "--controller", "unifrom"], "'uniform'"),
        (["episode", "--controller", "uniform", "--budget", "1.5"], "1.5"),
        (["episode", "--controller", "uniform", "--resume"], "--out"),
    ],
)
def test_mistakes_are_one_line(
    argv: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    try:
        status = main(argv)
    except SystemExit as stop:  # argparse's own way out
        status = int(stop.code or 0)
    shown = capsys.readouterr()
    lines = shown.err.strip().splitlines()
    assert status == 2 and len(lines) == 1 and says in lines[0], shown.err
    assert not shown.out and not list(tmp_path.rglob("*.json")), "nothing half-written"


def test_of_ten_steps_each_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with Tenths("working") as bar:
        for count in range(1, 11):
            bar.step(f"step {count} of 10", count / 10)
    told = [line.split("%")[0].strip() for line in capsys.readouterr().err.splitlines()]
    assert told == [str(10 * count) for count in range(1, 11)]
