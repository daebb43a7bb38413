"""A comparison plays what `prune` plays, is complete, and the same however often it was killed on the way."""

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
from rlprune.agents.compare.settings import CompareSettings
from rlprune.agents.runs.prune import prune_problem
from rlprune.agents.runs.recipes import get_recipe
from rlprune.artifact import fingerprint
from rlprune.cli import main
from rlprune.errors import UserError
from rlprune.report.analysis import analyse, merit
from rlprune.report.pareto import find_networks
from rlprune.report.units import ANY_DROP
from rlprune.seals import comparable
from rlprune.spec import ProblemSpec

FEW = ProblemSpec(control_size=200, calibration_size=128)
OPTIONS = "--methods uniform cem --seeds 0,1 --budgets 0.25 --epochs 0.5 --cem.episodes 8 --scratch --control-size 200"
OPTIONS += " --calibration-size 128"


def small(**changes):
    start = {
        "methods": ("uniform", "cem"),
        "seeds": (0, 1),
        "budgets": (0.25,),
        "epochs": 0.5,
        "scratch": True,
        "problem": FEW,
        "changes": {"cem": {"episodes": 8}},
    }
    return CompareSettings(**{**start, **changes})


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "whole"
    return folder, compare(small(), folder, workers=2, command="rlprune compare")


def stages(content, stage):
    return {(cell["controller"], cell["seed"]): cell["stages"][stage] for cell in content["cells"]}


@pytest.mark.parametrize(
    ("method", "goal", "epochs"), [("prc", {"tolerances": (0.02,)}, 2.0), ("error", {"budgets": (0.3,)}, 0.0)]
)
def test_a_cell_is_the_engine_and_nothing_else(method, goal, epochs, tmp_path):
    """The same recipe, goal and seed give the same plan and weights, at the same cost."""
    settings = CompareSettings(methods=(method,), seeds=(1,), epochs=epochs, problem=FEW, **goal)
    (cell,) = compare(settings, tmp_path)["cells"]
    found = cell["stages"]["prune"]
    asked = {"budget": 0.3, "tolerance": ANY_DROP} if "budgets" in goal else {"tolerance": 0.02}
    problem = ProblemSpec(seed=1, control_size=200, calibration_size=128).build()
    result = prune_problem(problem, get_recipe(method).change(epochs=epochs, **asked), timed=False)
    assert found["plan"] == result.plan.to_json()
    assert found["sha256"] == fingerprint(result.model.state_dict())
    assert {**result.record["cost"], **found["spent"]} == result.record["cost"]
    assert found["rounds"] == json.loads(json.dumps(result.history))


def test_every_cell_is_there_and_meets_the_budget(done):
    _, content = done
    assert content["status"] == "finished"
    assert [cell["status"] for cell in content["cells"]] == ["finished"] * 4
    for found in stages(content, "prune").values():
        assert found["goal_met"]
        assert 0.2 * found["baseline"]["macs"] < found["pruned"]["macs"] <= 0.25 * found["baseline"]["macs"]


def test_a_budget_without_training_is_met_in_one_round(tmp_path):
    settings = small(methods=("uniform", "prc"), seeds=(0,), epochs=0.0, scratch=False, changes={})
    for cell in compare(settings, tmp_path / "out")["cells"]:
        found = cell["stages"]["prune"]
        assert found["goal_met"] and len(found["rounds"]) == 1 and found["stopped"] == "budget"
        assert found["spent"]["images_trained"] == 0
        assert found["spent"]["images_evaluated"] == 200 * found["spent"]["evaluations"]
        assert found["latency"]["pruned"]["median_s"] > 0, "one worker has the machine to itself"


def test_a_search_inside_a_budget_looks_for_the_score(tmp_path):
    """It starts at the uniform schedule, so that it cannot end below it; MACs are the same for all."""
    changes = {"cem": {"episodes": 24, "population": 12, "racing": False}}
    settings = small(
        methods=("uniform", "cem"), budgets=(0.15,), seeds=(0,), epochs=0.0, scratch=False, changes=changes
    )
    uniform, cem = (c["stages"]["prune"] for c in compare(settings, tmp_path / "out")["cells"])
    assert cem["pruned"]["control_score"] >= uniform["pruned"]["control_score"]


def test_all_cells_are_trained_alike(done):
    """One budget of epochs for everybody, and for the same shape from scratch."""
    _, content = done
    for stage in ("prune", "scratch"):
        trained = {found["spent"]["images_trained"] for found in stages(content, stage).values()}
        assert len(trained) == 1 and trained != {0}
    assert (
        len({found["spent"]["images_trained"] for s in ("prune", "scratch") for found in stages(content, s).values()})
        == 1
    )
    assert all("latency" not in found for found in stages(content, "prune").values()), "two cells ran side by side"


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


def test_every_network_is_on_the_disk_and_scores_what_is_recorded(done):
    folder, content = done
    cell = content["cells"][0]
    for stage in ("prune", "scratch"):
        problem, network = rebuild_cell(folder / "cells" / cell["id"], stage)
        recorded = cell["stages"][stage]["pruned"]
        score = problem.evaluator.score(network.model, "control").value
        assert score == pytest.approx(recorded["control_score"], abs=0.01)
        assert problem.macs(network) == recorded["macs"]
        assert problem.parameters(network) == recorded["parameters"]
    assert len(find_networks(folder)) == 4 * 2


def test_scratch_starts_from_other_weights(done):
    _, content = done
    pruned, scratch = stages(content, "prune"), stages(content, "scratch")
    for key in pruned:
        assert pruned[key]["sha256"] != scratch[key]["sha256"]
        assert pruned[key]["pruned"]["macs"] == scratch[key]["pruned"]["macs"]


def test_asking_again_does_nothing_again(done):
    folder, content = done
    before = {path: path.stat().st_mtime_ns for path in folder.glob("cells/*/*")}
    assert comparable(compare(small(), folder)) == comparable(content)
    assert before == {path: path.stat().st_mtime_ns for path in folder.glob("cells/*/*")}


def test_a_grid_can_be_widened_but_not_changed(done, tmp_path):
    folder, content = done
    with pytest.raises(UserError, match="other settings"):
        compare(small(changes={"cem": {"episodes": 9}}), folder)
    narrow = small(methods=("uniform",), seeds=(0,), scratch=False, changes={})
    first = compare(narrow, tmp_path / "wide")
    again = compare(small(methods=("uniform",), changes={}), tmp_path / "wide")
    assert [cell["seed"] for cell in again["cells"]] == [0, 1]
    assert again["cells"][0]["stages"]["prune"] == first["cells"][0]["stages"]["prune"], "only scratch was added"
    for stage in ("prune", "scratch"):
        assert comparable(again["cells"][0]["stages"][stage]) == comparable(stages(content, stage)[("uniform", 0)])


def start(folder, *options):
    command = [sys.executable, "-m", "rlprune.cli", "compare", *OPTIONS.split(), "--no-report", "--quiet", *options]
    return subprocess.Popen([*command, "--out", str(folder)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_killed_at_random_it_ends_the_same_and_leaves_nothing_behind(done, tmp_path):
    _, content = done
    moments, folder = random.Random(0), tmp_path / "killed"
    for number in range(2):
        process = start(folder, "--workers", "2")
        wanted = len(list(folder.glob("cells/*/*.json"))) + moments.randint(1, 2)
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
    process = start(folder, "--resume", "--workers", "2")
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


def test_what_fails_is_recorded_and_not_fatal(tmp_path, capfd):
    """A budget out of reach is not met; a network that takes its process down has failed."""
    deadly = tmp_path / "deadly.py"
    deadly.write_text(
        "import os\n\nprint('said', flush=True)\n\ndef build(num_classes=10, in_channels=1):\n    os._exit(7)\n"
    )
    settings = CompareSettings(
        methods=("uniform",), models=("lenet5", f"{deadly}:build"), seeds=(0,), budgets=(0.25, 0.001), epochs=0.0
    )
    content = compare(settings, tmp_path / "out", workers=2)
    found = {(cell["problem"]["model"], cell["goal"]["value"]): cell for cell in content["cells"]}
    assert not capfd.readouterr().out, "what a network prints in a worker is no result"
    assert content["status"] == "finished"
    assert found[("lenet5", 0.25)]["status"] == "finished"
    assert not found[("lenet5", 0.001)]["stages"]["prune"]["goal_met"]
    dead = found[("build", 0.25)]
    assert dead["status"] == "failed" and dead["error"]["kind"] == "WorkerDied"
    tables = {(table["model"], table["goal"]["value"]): table["rows"][0] for table in content["analysis"]["settings"]}
    assert tables[("build", 0.25)]["failed"] == 1 and tables[("lenet5", 0.001)]["unmet"] == 1


def test_what_nothing_can_be_removed_from_counts_as_nothing_removed(done):
    _, content = done
    error = {"kind": "NothingInside", "message": "tolerance 0.01 cannot be met"}
    cells = [{**cell, "goal": {"kind": "tolerance", "value": 0.01}} for cell in content["cells"] if cell["seed"] == 0]
    cells[1] |= {"status": "failed", "error": error, "stages": {"prune": {"status": "failed", "error": error}}}
    rows = {row["controller"]: row for row in analyse(cells, "uniform")["settings"][0]["rows"]}
    assert rows["cem"]["merit"]["mean"] == 0 and rows["cem"]["failed"] == 1
    difference = rows["cem"]["against_baseline"]["difference"]["mean"]
    assert difference == -rows["uniform"]["merit"]["mean"] == -merit(cells[0])


def test_at_a_tolerance_every_network_keeps_it_and_the_training_is_counted(tmp_path):
    settings = CompareSettings(methods=("uniform", "prc"), seeds=(0,), tolerances=(0.1,), epochs=3.0, problem=FEW)
    content = compare(settings, tmp_path / "out", workers=2)
    train = len(FEW.splits().train)
    for cell in content["cells"]:
        found = cell["stages"]["prune"]
        assert found["drop"] <= 0.1 and found["goal_met"]
        assert found["pruned"]["macs"] < found["baseline"]["macs"]
        assert found["spent"]["images_trained"] <= 3.0 * train + 128
    (table,) = content["analysis"]["settings"]
    assert table["measure"] == "share of MACs removed"
    for row in table["rows"]:
        spent, left = zip(*row["curve"], strict=True)
        assert list(spent) == sorted(spent) and list(left) == sorted(left, reverse=True)
        assert row["curve"][0] == (0.0, 1.0) and left[-1] == pytest.approx(row["macs_left"]["mean"])


def test_an_agent_plays_by_the_rules_of_everybody(tmp_path):
    sb3 = pytest.importorskip("rlprune.agents.rl.sb3")
    from rlprune.envs.env import FilterPruningEnv
    from rlprune.envs.rules import Rules

    env = FilterPruningEnv.from_problem(ProblemSpec().build(), Rules(budget=0.25, max_rate=0.9, one_shot=True))
    hyperparameters = {"policy": "MlpPolicy", "n_steps": 8, "batch_size": 8}
    agent, path = sb3.make_agent("ppo", env, hyperparameters, seed=0), tmp_path / "agent.zip"
    card = {"algorithm": "ppo", "hyperparameters": hyperparameters, "levels": None}
    sb3.save_agent(path, agent, card)
    what = {"seeds": (0,), "budgets": (0.25,), "epochs": 0.0}
    cells = compare(CompareSettings(methods=("uniform", f"agent:{path}"), **what), tmp_path / "out")["cells"]
    for cell in cells:
        assert cell["status"] == "finished", cell["error"]
        assert cell["stages"]["prune"]["goal_met"]
    assert len({json.dumps(cell["stages"]["prune"]["spent"]) for cell in cells}) == 1
    with pytest.raises(UserError, match="no such file"):
        CompareSettings(methods=("uniform", "agent:nobody.zip"))


def test_a_recipe_of_ones_own_is_compared_by_its_file_name(tmp_path):
    (tmp_path / "mine.yml").write_text(get_recipe("error").change(criterion="l2").to_yaml())
    settings = small(methods=("uniform", str(tmp_path / "mine.yml")), changes={"lr": 0.003})
    cells = settings.cells()
    assert {cell.shown[0] for cell in cells} == {"uniform", "mine"}
    assert {cell.recipe.criterion for cell in cells} == {"l1", "l2"}
    assert {phase.lr for cell in cells for phase in (cell.recipe.repair, cell.recipe.finish)} == {0.003}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"methods": ("unifrom",)}, "did you mean 'uniform'"),
        ({"methods": ()}, "--methods is empty"),
        ({"seeds": (1, 1)}, "twice"),
        ({"budgets": (0.0,)}, "fraction of the MACs"),
        ({"tolerances": (-0.5,)}, "finite number >= 0"),
        ({"baseline": "prc"}, "choose one of: uniform"),
        ({"epochs": 0.0}, "--scratch needs training"),
        ({"changes": {"cem": {"elites": 1}}}, "did you mean 'elite'"),
        ({"changes": {"prc": {"alpha": 0.2}}}, "'prc' has options, and is not compared"),
        ({"changes": {"skip": ("residul",)}}, "did you mean 'residual'"),
        ({"changes": {"tolerance": 0.1}}, "comparison's own"),
        ({"changes": {"learning": 0.1}}, "unknown option"),
    ],
)
def test_mistakes_in_the_settings_are_said_in_one_line(changes, message):
    with pytest.raises(UserError, match=message) as error:
        small(**changes)
    assert "\n" not in str(error.value)


def test_settings_come_back_from_their_record():
    settings = small(tolerances=(0.01,), changes={"cem": {"episodes": 8}, "skip": ("residual",)})
    again = CompareSettings.from_json(json.loads(json.dumps(settings.to_json())))
    assert [cell.parameters for cell in again.cells()] == [cell.parameters for cell in settings.cells()]


def test_two_files_of_one_name_are_two_cells():
    cells = small(models=("a/net.py:build", "b/net.py:build"), seeds=(0,)).cells()
    assert len({cell.id for cell in cells}) == len(cells)
    assert {cell.shown[1] for cell in cells} == {"a/net.py:build", "b/net.py:build"}
    (cell,) = small(methods=("uniform",), models=("mine/net.py:build",), seeds=(0,), changes={}).cells()
    assert cell.shown == ("uniform", "build", "digits")


def test_the_command_writes_the_report_and_exits_cleanly(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    argv = ["compare", "--controllers", "uniform,error", "--seeds", "0", "--epochs", "0"]
    assert main([*argv, "--budgets", "0.25"]) == 0
    printed = capsys.readouterr()
    assert "uniform" in printed.out and "2/2" in printed.err
    folder = tmp_path / "runs" / "compare-lenet5-digits"
    assert "<script" in (folder / "report.html").read_text()
    assert (folder / "figures" / "scores.svg").exists() and list((folder / "tensorboard").iterdir())
    assert main(["compare", "--resume", "--out", str(folder), "--quiet", "--no-report"]) == 0, "by its own settings"
    assert main(["report", str(folder), "--figures", "none", "--out", "one.html"]) == 0
    assert (tmp_path / "one.html").exists()
    capsys.readouterr()
    assert main(["pareto", "runs", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert any(entry["front"] for entry in listed)
    assert main(["pareto", "runs", "--export", listed[0]["id"], "--out", "small.pt2", "--format", "pt2"]) == 0
    assert (tmp_path / "small.pt2").exists()
    assert main([*argv, "--budgets", "0.25", "--out", str(folder), "--max-rate", "0.5"]) == 2
    assert "other settings" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--data", "nowhere.npz"], "nowhere.npz"),  # found out in the cells, of which none can be done
        (["--criterion", "l3"], "unknown criterion"),
        (["--recovery", "lsp"], "unknown recovery"),
        (["--skip", "residul"], "did you mean 'residual'"),
        (["--uniform.rate", "2"], "rate is 2"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(options, message, tmp_path, capsys):
    argv = ["compare", "--methods", "uniform", "--seeds", "0", "--epochs", "0", "--quiet", "--out", str(tmp_path / "a")]
    assert main([*argv, *options]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and message in lines[0]


def test_help_needs_no_torch():
    code = "import sys; from rlprune.cli import main; main(['compare', '--help']); assert 'torch' not in sys.modules"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "--tolerances" in said and len(said.splitlines()) <= 50
