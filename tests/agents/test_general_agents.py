"""Agents over several families: watched and left out, goals of two kinds, beside the rule at a tolerance."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlprune.agents import AgentSettings, Recipe, TrainedAgent, load_agent, make_controller, play, run_episode, train
from rlprune.agents.controllers.beside import Beside
from rlprune.agents.controllers.rounds import loss_of
from rlprune.agents.rl.evaluating import Watch, evaluate, gain
from rlprune.agents.rl.sb3 import _SpacesOnly, make_agent, read_card, save_agent
from rlprune.agents.runs.playing import followed_there, standing
from rlprune.cli import main
from rlprune.envs import FilterPruningEnv, MixedPruningEnv
from rlprune.envs.arguments import shared_problem
from rlprune.envs.observations import FEATURES
from rlprune.envs.registration import MIXED
from rlprune.errors import UserError
from rlprune.files import write_json
from rlprune.problem import PruningProblem
from rlprune.record import RunFolder
from rlprune.recovery import make_recovery
from rlprune.spec import ProblemSpec

SMALL: dict[str, Any] = {"control_size": 200, "calibration_size": 128}
ONE_SHOT: dict[str, Any] = {**SMALL, "one_shot": True, "max_rate": 0.9, "tolerance": 1.0}


@pytest.fixture(scope="module")
def problem() -> PruningProblem:
    return shared_problem(ProblemSpec(**SMALL))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An agent of two drawn networks, one more watched and one left out."""
    folder = tmp_path_factory.mktemp("general")
    population = ["--networks", "3", "--families", "plain", "residual", "separable", "--epochs", "0.2", "--lr", "0.05"]
    small = ["--control-size", "100", "--calibration-size", "64", "--quiet"]
    assert main(["train-population", *population, *small, "--out", str(folder / "three")]) == 0
    lessons = ["--models", f"population:{folder / 'three'}", "--leave-out", "residual", "--watch", "separable"]
    goals = ["--budgets", "0.5", "0.7", "--counted", "macs", "parameters", "--reward", "gain_over_error"]
    quick = ["--episodes", "8", "--set", "n_steps=16", "--set", "batch_size=16", "--set", "n_epochs=1", "--quiet"]
    assert main(["train-agent", *lessons, *goals, *quick, "--recovery", "bn", "--out", str(folder / "agent")]) == 0
    return folder / "agent" / "agent.zip"


def test_the_card_says_what_was_left_out_and_what_it_cost(trained: Path) -> None:
    card = read_card(trained)
    assert [problem["model"] for problem in card["env"]["kwargs"]["problems"]] == ["drawn:plain-0"]
    training = card["training"]
    assert [problem["model"] for problem in training["watched"]] == ["drawn:separable-0"]
    assert [problem["model"] for problem in training["left_out"]] == ["drawn:residual-0"]
    assert training["networks_scored"] >= training["episodes"] and card["time"]["processor_s"] > 0
    curve = training["curve"]
    assert len(curve) >= 2 and curve == [
        json.loads(x) for x in (trained.parent / "curve.jsonl").read_text().splitlines()
    ]
    assert [line["timesteps"] for line in curve] == sorted({line["timesteps"] for line in curve})
    for name in ("deterministic", "left_out"):
        lines = card["metrics"][name]
        assert {(line["counted"], line["budget"]) for line in lines} <= {
            (kind, budget) for kind in ("macs", "parameters") for budget in (0.5, 0.7)
        }
        assert all({"agent", "error", "uniform"} <= set(line) for line in lines)
    assert main(["train-agent", "--resume", "--out", str(trained.parent), "--quiet"]) == 0, (
        "by the settings that it has"
    )
    assert main(["train-agent", "--resume", "--patience", "3", "--out", str(trained.parent), "--quiet"]) == 2


def test_what_is_kept_is_the_best_that_was_watched(trained: Path) -> None:
    card = read_card(trained)
    kwargs = {**card["env"]["kwargs"], "problems": card["training"]["watched"]}
    env = MixedPruningEnv(**{**kwargs, "common": {**kwargs["common"], "recovery": "bn"}})
    agent = TrainedAgent(load_agent(trained).model, {"around": "advice"})
    assert gain(evaluate(agent, env, 0)[0]) == pytest.approx(
        max(line["over_error"] for line in card["training"]["curve"])
    )


def test_training_ends_where_nothing_gets_better(tmp_path: Path) -> None:
    watch = Watch(MixedPruningEnv(common=SMALL, budgets=[0.5]), tmp_path, "advice", every=1, patience=2, seed=0)
    watch.curve = [{"timesteps": n, "over_error": value} for n, value in enumerate([0.1, 0.3, 0.2])]
    assert watch._on_step()
    watch.curve.append({"timesteps": 3, "over_error": 0.25})
    assert not watch._on_step()


def test_an_agent_sees_the_features_that_its_card_names(trained: Path, tmp_path: Path, problem: PruningProblem) -> None:
    """Of observations that had less, an agent plays on in today's; of observations with more it cannot."""
    card = json.loads(trained.with_suffix(".json").read_text())
    fewer = [name for name in FEATURES if not name.startswith(("counts_", "keeps_"))]
    env = FilterPruningEnv.from_problem(problem, FilterPruningEnv(**ONE_SHOT, budget=0.5).rules)
    box = load_agent(trained).model.action_space
    model = make_agent("ppo", _SpacesOnly(len(fewer), box), card["hyperparameters"], seed=3)
    save_agent(tmp_path / "old.zip", model, {"algorithm": "ppo", "hyperparameters": card["hyperparameters"]})
    written = json.loads((tmp_path / "old.json").read_text())
    write_json(tmp_path / "old.json", {**written, "features": fewer, "levels": None})
    old = load_agent(tmp_path / "old.zip")
    seen, _ = env.reset()
    columns = [FEATURES.index(name) for name in fewer]
    np.testing.assert_array_equal(old.predict(seen)[0], old.model.predict(seen[columns], deterministic=True)[0])
    assert run_episode(env, old).info["final_macs_share"] <= 0.5
    write_json(tmp_path / "old.json", {**written, "features": [*fewer, "hue"], "levels": None})
    with pytest.raises(UserError, match="other observations"):
        load_agent(tmp_path / "old.zip")


def test_a_budget_of_parameters_is_met_and_told(problem: PruningProblem) -> None:
    env = FilterPruningEnv(**ONE_SHOT, budget=0.4, counted="parameters")
    for controller in ("uniform", "error", "random"):
        env.reset()
        info = run_episode(env, make_controller(controller, {"episodes": 2} if controller == "random" else None)).info
        whole = problem.cost.parameters({})
        removed = {name: len(units) for name, units in info["plan"].items()}
        assert info["final_parameters"] == problem.cost.parameters(removed) <= 0.4 * whole
        assert info["is_success"] and info["final_macs_share"] != pytest.approx(0.4, abs=0.02)
    told = dict(zip(FEATURES, env.reset()[0], strict=True))
    assert (told["counts_parameters"], told["counts_macs"], told["keeps_tolerance"]) == (1, 0, 0)
    assert told["to_remove"] == pytest.approx(0.6, abs=1e-3)
    told = dict(zip(FEATURES, env.reset(options={"counted": "macs", "budget": 0.5})[0], strict=True))
    assert (told["counts_parameters"], told["counts_macs"]) == (0, 1)
    assert run_episode(env, make_controller("error"), options={"counted": "macs"}).info["final_macs_share"] <= 0.4
    told = dict(zip(FEATURES, FilterPruningEnv(**SMALL).reset()[0], strict=True))
    assert (told["counts_macs"], told["keeps_tolerance"]) == (0, 1)


def test_kinds_of_goals_are_drawn_and_only_budgets_within_reach() -> None:
    env = MixedPruningEnv(
        [{}, {"max_rate": 0.4}], SMALL, budgets=[0.2, 0.6], counted=["macs", "parameters"], max_rate=0.95
    )
    drawn = [env.reset(seed=5)[1]] + [env.reset()[1] for _ in range(40)]
    goals = {(info["problem"], info["counted"], info["budget"]) for info in drawn}
    assert {budget for number, _, budget in goals if number == 1} == {0.6}, "max_rate 0.4 leaves 0.36 or more"
    assert {(kind, budget) for number, kind, budget in goals if number == 0} == {
        (kind, budget) for kind in ("macs", "parameters") for budget in (0.2, 0.6)
    }


def test_the_gain_over_the_rule_is_zero_for_the_rule_itself(problem: PruningProblem) -> None:
    env = FilterPruningEnv(**{**ONE_SHOT, "budget": 0.3, "reward": "gain_over_error"})
    assert run_episode(env, make_controller("error")).total_reward == 0.0
    uniform, error = (
        run_episode(FilterPruningEnv(**{**ONE_SHOT, "budget": 0.3, "reward": "accuracy"}), make_controller(name))
        for name in ("uniform", "error")
    )
    expected = (uniform.total_reward - error.total_reward) / max(0.15, env.baseline.value - error.total_reward)
    assert run_episode(env, make_controller("uniform")).total_reward == pytest.approx(expected)


class Fixed:
    """An agent whose every action is the same."""

    def __init__(self, action: float) -> None:
        self.action = action

    def predict(self, observation: Any, *_: Any, **__: Any) -> tuple[Any, None]:
        return np.array([self.action], np.float32), None


def test_a_rehearsal_tells_what_would_be_played_and_changes_nothing(problem: PruningProblem) -> None:
    env = FilterPruningEnv.from_problem(problem)
    env.reset()
    env.aim(0.6)
    before, evaluations = env.observation, problem.ledger.evaluations
    counts = env.rehearse(Fixed(0.4))
    np.testing.assert_array_equal(env.observation, before)
    assert problem.ledger.evaluations == evaluations and env.visit == 0
    while not env.history:
        env.step(np.array([0.4], np.float32))
    assert {name: count for name, count in env.history[0]["removed"].items() if count} == counts


@pytest.mark.parametrize("action", [0.9, -0.9])
def test_beside_the_rules_the_best_schedule_goes_on(problem: PruningProblem, action: float) -> None:
    env = FilterPruningEnv.from_problem(problem)
    beside = Beside(Fixed(action), 4)
    beside.bind(env)
    env.reset()
    now = standing(env, beside, Recipe(tolerance=0.05, epochs=0.0), 0.0, make_recovery("lsq+bn-delta"))
    aim = beside.law().aim(now)
    assert aim is not None and aim.share < 1.0
    kinds = [line["by"] for line in beside.tried]
    assert kinds[0] == "agent" and {"error", "threshold", "uniform"} < set(kinds), kinds
    assert "agent, drawn 1" not in kinds, "one that cannot draw is tried once"
    losses = {line["by"]: line["loss"] for line in beside.tried}
    assert beside.state_dict()["kind"] == min(losses, key=lambda name: losses[name])
    env.aim(aim.share)
    least, _ = loss_of(env, beside.schedule(), make_recovery("lsq+bn-delta"))
    while not env.history:
        env.step(beside.predict(env.observation)[0])
    assert env.score.loss is not None and env.score.loss <= least
    other = Beside(Fixed(action), 4)
    other.load_state_dict(beside.state_dict())
    assert (other.rule_leads, other.tried) == (beside.rule_leads, beside.tried)


def test_beside_the_rules_an_agent_is_followed_where_it_leads() -> None:
    agent = Fixed(0.0)
    agent.followed = lambda observation: 0.7  # type: ignore[attr-defined]
    beside = Beside(agent)
    assert followed_there(beside, None) == 0.7
    beside.load_state_dict({**beside.state_dict(), "kind": "error+uniform"})
    assert followed_there(beside, None) == 0.0


def test_at_a_tolerance_an_agent_is_a_recipe_with_training_played_beside_the_rule(
    trained: Path, tmp_path: Path
) -> None:
    argv = ["prune", "--controller", f"agent:{trained}", "--control-size", "200", "--calibration-size", "128"]
    argv += ["--tolerance", "0.05", "--epochs", "2", "--skip", "none", "--quiet", "--out", str(tmp_path / "run")]
    assert main(argv) == 0
    record = RunFolder(tmp_path / "run").read()
    assert record["drop"] <= 0.05 and 0 < record["epochs"] < 2.1  # to a whole batch
    first = [line for line in record["samples"] if line["round"] == 0]
    assert [line["by"] for line in first][:5] == ["agent", *(f"agent, drawn {i}" for i in (1, 2, 3)), "threshold"]
    counts = [line["evaluations"] for line in record["samples"]]
    assert counts == sorted(counts)


def test_alone_where_one_sample_is_asked_for(trained: Path, problem: PruningProblem) -> None:
    recipe = Recipe(controller=f"agent:{trained}", tolerance=0.05, epochs=0.0, samples=1, skip=())
    outcome = play(problem.fresh(), recipe)
    assert outcome.tried == [] and all("followed" in line for line in outcome.rounds)


def test_a_killed_training_that_watches_ends_the_same(tmp_path: Path, Killed: type[BaseException]) -> None:
    kwargs = {"common": SMALL, "budgets": [0.5, 0.6]}
    quick = {"n_steps": 6, "n_epochs": 1}
    settings = AgentSettings(
        env=MIXED, env_kwargs=kwargs, episodes=14, segment=12, hyperparameters=quick, watched=({},)
    )
    train(settings, tmp_path / "whole")

    def die(count: int, line: dict[str, Any]) -> None:
        if count == 11:
            raise Killed

    with pytest.raises(Killed):
        train(settings, tmp_path / "killed", on_episode=die)
    train(settings, tmp_path / "killed", resume=True)
    curves = [(tmp_path / name / "curve.jsonl").read_text() for name in ("whole", "killed")]
    assert curves[0] == curves[1] and len(curves[0].splitlines()) >= 3
    one, other = (load_agent(tmp_path / name / "agent.zip").model.policy.state_dict() for name in ("whole", "killed"))
    assert all(one[name].equal(other[name]) for name in one)
    assert not list((tmp_path / "killed").glob("best*"))


def test_what_agents_know_is_listed(capsys: pytest.CaptureFixture[str], trained: Path) -> None:
    assert main(["agents"]) == 0
    listed = capsys.readouterr().out
    assert "ppo-general" in listed and "ppo-resnet" in listed and "the rule response" in listed
    assert main(["agents", str(trained), "--json"]) == 0
    (known,) = json.loads(capsys.readouterr().out).values()
    assert known["trained_on"] == ["drawn:plain-0"] and known["counted"] == ["macs", "parameters"]
    assert "points" in known["over_error_left_out"]
    assert main(["agents", "nowhere.zip"]) == 2
    assert "no such file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["--leave-out", "dens"], "--models"),
        (["--models", "drawn:dense-0", "--leave-out", "dens"], "did you mean 'dense'"),
        (["--models", "drawn:dense-0", "--leave-out", "dense"], "no network is left"),
        (["--patience", "2"], "patience is 2"),
        (["--counted", "flops"], "what a budget counts"),
    ],
)
def test_mistakes_are_one_line(argv: list[str], says: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["train-agent", *argv, "--out", str(tmp_path / "no")]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and says in lines[0], lines


def test_a_twin_has_the_goal_of_the_episode() -> None:
    env = FilterPruningEnv(one_shot=True, budget=0.5, **SMALL)
    env.reset(options={"budget": 0.6, "counted": "parameters"})
    twin = env.twin()
    assert (twin.scope.counted, twin.budget.target) == ("parameters", env.budget.target)
