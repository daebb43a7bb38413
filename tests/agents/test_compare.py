"""A comparison is fair, complete, and the same however often it was killed on the way."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rlprune.agents.compare.comparison import compare, rebuild_cell
from rlprune.agents.compare.contestants import Arena, play
from rlprune.agents.compare.settings import CompareSettings, Goal, PlaySettings, TuneSettings
from rlprune.errors import UserError
from rlprune.record import comparable
from rlprune.report.pareto import find_networks
from rlprune.spec import ProblemSpec

OPTIONS = "--controllers uniform,cem --seeds 0,1 --budgets 0.25 --evaluations 8 --finetune 0.5 --scratch"


def small(**changes):
    start = {
        "controllers": ("uniform", "cem"),
        "seeds": (0, 1),
        "budgets": (0.25,),
        "play": PlaySettings(evaluations=8),
        "tune": TuneSettings(finetune=0.5, scratch=True),
    }
    return CompareSettings(**{**start, **changes})


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "whole"
    return folder, compare(small(), folder, workers=2, command="rlprune compare")


def stages(content, stage):
    return {(cell["controller"], cell["seed"]): cell["stages"][stage] for cell in content["cells"]}


def test_every_cell_is_there_and_meets_the_budget(done):
    _, content = done
    assert content["status"] == "finished"
    assert [cell["status"] for cell in content["cells"]] == ["finished"] * 4
    for found in stages(content, "prune").values():
        assert found["goal_met"]
        assert found["pruned"]["macs"] <= 0.25 * found["baseline"]["macs"]
        assert found["pruned"]["macs"] > 0.2 * found["baseline"]["macs"]


def test_the_books_show_what_each_cell_cost_and_nothing_else(done):
    _, content = done
    for (controller, _), found in stages(content, "prune").items():
        size, spent = found["baseline"]["control_size"], found["spent"]
        assert spent["images_trained"] == 0
        assert spent["images_evaluated"] == size * spent["evaluations"]
        if controller == "uniform":
            assert spent["evaluations"] == 1
        if controller == "cem":
            assert 2 <= spent["evaluations"] <= 8
    trained = {found["spent"]["images_trained"] for found in stages(content, "finetune").values()}
    scratch = {found["spent"]["images_trained"] for found in stages(content, "scratch").values()}
    assert trained == scratch and len(trained) == 1 and trained != {0}


def test_seeds_are_paired(done):
    _, content = done
    by_seed = {}
    for (_, seed), found in stages(content, "prune").items():
        by_seed.setdefault(seed, set()).add(json.dumps(found["baseline"]))
    assert all(len(baselines) == 1 for baselines in by_seed.values())
    (table,) = content["analysis"]["settings"]
    rows = {row["controller"]: row for row in table["rows"]}
    assert rows["uniform"]["against_baseline"]["difference"]["mean"] == 0
    assert rows["cem"]["against_baseline"]["difference"]["n"] == 2
    assert table["proxy"]["n"] == 4


def test_every_network_is_on_the_disk_and_scores_what_is_recorded(done):
    folder, content = done
    cell = content["cells"][0]
    for stage in ("prune", "finetune", "scratch"):
        problem, network = rebuild_cell(folder / "cells" / cell["id"], stage)
        recorded = cell["stages"][stage]["pruned"]
        assert problem.evaluator.score(network.model, "control").value == pytest.approx(
            recorded["control_score"], abs=0.01
        )
        assert problem.macs(network) == recorded["macs"]
        assert problem.parameters(network) == recorded["parameters"]
    assert len(find_networks(folder)) == 4 * 3


def test_scratch_starts_from_other_weights_than_finetuning(done):
    _, content = done
    tuned, scratch = stages(content, "finetune"), stages(content, "scratch")
    for key in tuned:
        assert tuned[key]["sha256"] != scratch[key]["sha256"]
        assert tuned[key]["pruned"]["macs"] == scratch[key]["pruned"]["macs"]


def test_asking_again_does_nothing_again(done):
    folder, content = done
    before = {path: path.stat().st_mtime_ns for path in folder.glob("cells/*/*")}
    assert comparable(compare(small(), folder)) == comparable(content)
    assert before == {path: path.stat().st_mtime_ns for path in folder.glob("cells/*/*")}


def test_a_grid_can_be_widened_but_not_changed(done, tmp_path):
    folder, content = done
    with pytest.raises(UserError, match="other settings"):
        compare(small(play=PlaySettings(evaluations=9)), folder)
    narrow = small(controllers=("uniform",), seeds=(0,), tune=TuneSettings())
    first = compare(narrow, tmp_path / "wide")
    again = compare(small(controllers=("uniform",), seeds=(0, 1), tune=TuneSettings()), tmp_path / "wide")
    assert [cell["seed"] for cell in again["cells"]] == [0, 1]
    assert again["cells"][0] == first["cells"][0]
    other = comparable(stages(content, "prune")[("uniform", 0)])
    assert comparable(again["cells"][0]["stages"]["prune"]) == other


def start(folder, *options):
    command = [sys.executable, "-m", "rlprune.cli", "compare", *OPTIONS.split(), "--no-report", "--quiet", *options]
    return subprocess.Popen([*command, "--out", str(folder)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_killed_at_random_it_ends_the_same_and_leaves_nothing_behind(done, tmp_path):
    _, content = done
    moments, folder = random.Random(0), tmp_path / "killed"
    for number in range(2):
        process = start(folder, "--workers", "2")
        there = len(list(folder.glob("cells/*/*.json")))
        wanted = there + moments.randint(1, 5)
        while process.poll() is None and len(list(folder.glob("cells/*/*.json"))) < wanted:
            time.sleep(0.02)
        assert process.poll() is None, f"kill {number} came too late"
        workers = children(process.pid)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        for path in folder.glob("**/*.json"):
            json.loads(path.read_text())  # never half a file
        deadline = time.monotonic() + 60
        while any(map(alive, workers)):
            assert workers and time.monotonic() < deadline, "a worker outlived its parent"
            time.sleep(0.02)
    process = start(folder)
    _, errors = process.communicate()
    assert process.returncode == 0, errors
    ended = json.loads((folder / "comparison.json").read_text())
    assert comparable(ended) == comparable(content)
    assert not list(folder.glob("**/.*.part"))


def children(pid):
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def alive(pid):
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False


def test_what_fails_is_recorded_and_not_fatal(tmp_path):
    """A budget that cannot be met, and a network that takes its process down."""
    deadly = tmp_path / "deadly.py"
    deadly.write_text("import os\n\ndef build(num_classes=10, in_channels=1):\n    os._exit(7)\n")
    settings = CompareSettings(
        controllers=("uniform",), models=("lenet5", f"{deadly}:build"), seeds=(0,), budgets=(0.25, 0.001)
    )
    content = compare(settings, tmp_path / "out", workers=2)
    found = {(cell["problem"]["model"], cell["goal"]["value"]): cell for cell in content["cells"]}
    assert content["status"] == "finished"
    assert found[("lenet5", 0.25)]["status"] == "finished"
    unmet = found[("lenet5", 0.001)]
    assert unmet["status"] == "failed" and "cannot be met" in unmet["error"]["message"]
    assert (tmp_path / "out" / "cells" / unmet["id"] / "error.txt").read_text().startswith("Traceback")
    dead = found[("build", 0.25)]
    assert dead["status"] == "failed" and dead["error"]["kind"] == "WorkerDied"
    assert [row["failed"] for row in content["analysis"]["settings"][1]["rows"]] == [1]


def test_at_a_tolerance_every_network_keeps_it(tmp_path):
    settings = CompareSettings(
        controllers=("uniform", "cem", "prc"),
        seeds=(0,),
        tolerances=(0.01,),
        play=PlaySettings(evaluations=14, rounds=4, options={"prc": {"afp_epochs": 0.25}}),
    )
    content = compare(settings, tmp_path / "out", workers=2)
    for cell in content["cells"]:
        found = cell["stages"]["prune"]
        assert found["drop"] <= 0.01 and found["goal_met"]
        assert found["pruned"]["macs"] < found["baseline"]["macs"]
        assert found["rounds"]
    assert content["analysis"]["settings"][0]["measure"] == "share of MACs removed"


def test_prc_reaches_a_budget_that_its_first_tolerances_cannot():
    prc = {"afp_epochs": 0.0, "probe_recovery": "none", "alpha": 0.5, "delta": 0.1}
    problem = ProblemSpec(control_size=100).build()
    arena = Arena(problem, PlaySettings(options={"prc": prc}), "prc", seed=0, evaluations=10)
    played = play(arena, Goal("budget", 0.3))
    assert played.stopped == "budget"
    assert played.history[-1]["macs"] <= 0.3 * problem.cost.macs()


def test_training_while_pruning_is_taken_off_the_shared_budget(tmp_path):
    settings = CompareSettings(
        controllers=("uniform", "prc"),
        seeds=(0,),
        budgets=(0.7,),
        play=PlaySettings(options={"prc": {"afp_epochs": 0.25}}),
        tune=TuneSettings(finetune=3.0),
    )
    content = compare(settings, tmp_path / "out", workers=2)
    total = {}
    for cell in content["cells"]:
        assert cell["status"] == "finished", cell
        total[cell["controller"]] = sum(stage["spent"]["images_trained"] for stage in cell["stages"].values())
    assert content["cells"][1]["stages"]["prune"]["spent"]["images_trained"] > 0
    assert total["prc"] == pytest.approx(total["uniform"], rel=0.15)  # a fraction of an epoch is whole batches


def test_an_agent_plays_by_the_rules_of_everybody(tmp_path):
    sb3 = pytest.importorskip("rlprune.agents.rl.sb3")
    from rlprune.envs import FilterPruningEnv, Rules

    env = FilterPruningEnv.from_problem(ProblemSpec().build(), Rules(budget=0.25, max_rate=0.9, one_shot=True))
    hyperparameters = {"policy": "MlpPolicy", "n_steps": 8, "batch_size": 8}
    agent, path = sb3.make_agent("ppo", env, hyperparameters, seed=0), tmp_path / "agent.zip"
    card = {"algorithm": "ppo", "hyperparameters": hyperparameters, "levels": None}
    sb3.save_agent(path, agent, card)
    settings = CompareSettings(controllers=("uniform", f"agent:{path}"), seeds=(0,), budgets=(0.25,))
    for cell in compare(settings, tmp_path / "out")["cells"]:
        assert cell["status"] == "finished", cell["error"]
        assert cell["stages"]["prune"]["goal_met"]
        assert cell["stages"]["prune"]["spent"]["evaluations"] == 1
    with pytest.raises(UserError, match="no such file"):
        CompareSettings(controllers=("uniform", "agent:nobody.zip"), budgets=(0.25,))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"controllers": ("unifrom",), "baseline": "unifrom"}, "did you mean 'uniform'"),
        ({"controllers": ()}, "--controllers is empty"),
        ({"seeds": (1, 1)}, "twice"),
        ({"budgets": (), "tolerances": ()}, "needs a goal"),
        ({"budgets": (0.0,)}, "fraction of the MACs"),
        ({"tolerances": (1.5,)}, "fraction, not a percentage"),
        ({"baseline": "prc"}, "choose one of: uniform"),
        ({"play": PlaySettings(options={"cem": {"elites": 1}})}, "did you mean 'elite'"),
    ],
)
def test_mistakes_in_the_settings_are_said_in_one_line(changes, message):
    with pytest.raises(UserError, match=message) as error:
        small(**changes)
    assert "\n" not in str(error.value)


def test_two_files_of_one_name_are_two_cells():
    cells = small(models=("a/net.py:build", "b/net.py:build"), seeds=(0,)).cells()
    assert len({cell.id for cell in cells}) == len(cells)
    assert {cell.shown[1] for cell in cells} == {"a/net.py:build", "b/net.py:build"}
    (cell,) = small(controllers=("uniform",), models=("mine/net.py:build",), seeds=(0,)).cells()
    assert cell.shown == ("uniform", "build", "digits")


def test_the_command_writes_the_report_and_exits_cleanly(tmp_path, monkeypatch, capsys):
    from rlprune.cli import main

    monkeypatch.chdir(tmp_path)
    assert main(["compare", "--controllers", "uniform,pfec", "--seeds", "0", "--budgets", "0.25"]) == 0
    printed = capsys.readouterr()
    assert "uniform" in printed.out and "2/2" in printed.err
    folder = tmp_path / "runs" / "compare-lenet5-digits"
    assert "<script" in (folder / "report.html").read_text()
    assert (folder / "figures" / "scores.svg").exists() and list((folder / "tensorboard").iterdir())
    assert main(["pareto", "runs", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert any(entry["front"] for entry in listed)
    assert main(["pareto", "runs", "--export", listed[0]["id"], "--out", "small.pt2", "--format", "pt2"]) == 0
    assert (tmp_path / "small.pt2").exists()
    assert main(["compare", "--out", "runs/compare-lenet5-digits", "--seeds", "0", "--max-rate", "0.5"]) == 2
    assert "other settings" in capsys.readouterr().err


def test_the_batch_size_holds_in_both_trainings():
    tune = TuneSettings(finetune=2.0, scratch=True, batch_size=8)
    assert {tune.training(stage).batch_size for stage in ("finetune", "scratch")} == {8}
    assert tune.training("scratch").epochs == 2.0
    with pytest.raises(UserError, match="--batch-size is 0"):
        TuneSettings(batch_size=0)
