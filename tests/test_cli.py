"""The commands that look at a network or a run, through the command line."""

import contextlib
import json
import subprocess
import sys
import warnings
from dataclasses import dataclass

import numpy as np
import pytest

from rlprune.agents import get_recipe, list_recipes, read_recipe
from rlprune.agents.runs.recipes import published_recipes
from rlprune.cli import COMMANDS, main
from rlprune.errors import Notice, UserError
from rlprune.notices import holding, tell


@pytest.fixture
def arrays(tmp_path):
    rng = np.random.default_rng(0)
    images = {"train": (300, 32, 32, 3), "test": (100, 32, 32, 3)}
    content = {name: rng.integers(0, 255, shape, dtype=np.uint8) for name, shape in images.items()}
    labels = {f"{name}_labels": np.arange(shape[0]) % 10 for name, shape in images.items()}
    np.savez(tmp_path / "noise.npz", **content, **labels)
    return str(tmp_path / "noise.npz")


def test_inspect_needs_no_weights(arrays, capsys):
    assert main(["inspect", "--model", "resnet20", "--data", arrays, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {"layer1.0.conv1", "layer3.2.conv1"} <= {g["name"] for g in found["groups"] if g["locked"] is None}
    assert all(g["locked"] for g in found["groups"] if g["name"] == "linear")


def test_inspect_prints_every_lock_with_its_reason(arrays, capsys):
    assert main(["inspect", "--model", "resnet20", "--data", arrays, "--keep", "layer1.*"]) == 0
    assert "locked layer1.0.conv1: " in capsys.readouterr().out


def test_evaluate_gives_scores_and_cost(capsys):
    assert main(["evaluate", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["test_score"] > 0.95 and found["control_score"] > 0.95
    assert (found["macs"], found["parameters"]) == (3_297_000, 431_080)


def test_a_run_is_replayed_and_exported(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["prune", "--controller", "uniform", "--rounds", "1", "--epochs", "0", "--out", "run", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert main(["replay", "run", "--json"]) == 0
    checks = {check["name"]: check["replayed"] for check in json.loads(capsys.readouterr().out)["checks"]}
    assert checks["test_score"] == record["pruned"]["test_score"]
    assert main(["export", "run", "--format", "pt2"]) == 0
    assert (tmp_path / "run" / "model.pt2").exists()


HELP = """
import resource, sys
from rlprune.agents import get_recipe, list_recipes, read_recipe
from rlprune.agents.runs.recipes import published_recipes
from rlprune.cli import main
main([*sys.argv[1:], "--help"])
heavy = [name for name in ("torch", "stable_baselines3", "matplotlib", "torchvision") if name in sys.modules]
print(heavy, resource.getrusage(resource.RUSAGE_SELF).ru_utime)
"""


@pytest.mark.parametrize("command", [[], ["prune"], ["train"], ["train-agent"], ["episode"], ["sensitivity"]])
def test_help_fits_a_screen_and_loads_nothing_heavy(command):
    run = subprocess.run([sys.executable, "-c", HELP, *command], capture_output=True, text=True, check=True)
    *lines, said = run.stdout.splitlines()
    assert said.startswith("[] ") and float(said.split()[1]) < 2.5, "a second on a machine that has nothing else to do"
    assert len(lines) <= 50


@pytest.mark.parametrize("argv", [["--help"], *([name, "--help"] for name in COMMANDS), ["prune", "--help-all"]])
def test_help_fits_80_columns(argv, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert main(argv) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if not line.startswith("usage:")]
    assert max(map(len, lines)) <= 80


def test_all_help_has_every_option_of_a_phase(capsys):
    assert main(["prune", "--help-all"]) == 0
    shown = capsys.readouterr().out
    assert all(
        f"--{option} " in shown for option in ("repair.lr", "finish.epochs", "press.epochs", "prc.alpha", "keep")
    )


def test_a_recipe_is_printed_and_read(tmp_path, capsys):
    assert main(["methods", "fpsl", "--published", "--yaml"]) == 0
    (tmp_path / "mine.yml").write_text(capsys.readouterr().out)
    assert read_recipe(tmp_path / "mine.yml") == get_recipe("fpsl", published=True)
    (tmp_path / "mine.yml").write_text("controller: uniform\ntolerance: 0.5\nepochs: 0\nrounds: 1\n")
    argv = ["prune", "--recipe", str(tmp_path / "mine.yml"), "--out", str(tmp_path / "run"), "--json"]
    assert main([*argv, "--criterion", "l2", "--control-size", "200", "--calibration-size", "128"]) == 0
    settings = json.loads(capsys.readouterr().out)["settings"]
    assert [settings[name] for name in ("controller", "tolerance", "criterion")] == ["uniform", 0.5, "l2"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("- prc", "table of options"),
        ("controler: prc", "did you mean 'controller'"),
        ("tolerance: -1", "tolerance is -1"),
        ("tolerance: [", "not YAML"),
        ("repair: {lrr: 1}", "did you mean 'lr'"),
        ("controller: prcc", "'prc'"),
    ],
)
def test_a_recipe_that_is_none_is_said_in_a_line(text, says, tmp_path, capsys):
    (tmp_path / "mine.yml").write_text(text)
    assert main(["prune", "--recipe", str(tmp_path / "mine.yml")]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert says in line and "mine.yml" in line


def test_every_recipe_survives_yaml(tmp_path):
    for recipe in [*map(get_recipe, list_recipes()), *published_recipes().values()]:
        (tmp_path / "one.yml").write_text(recipe.to_yaml())
        assert read_recipe(tmp_path / "one.yml") == recipe, recipe.method


@pytest.mark.parametrize(
    ("former", "now"),
    [
        ("--prc-alpha", "--prc.alpha"),
        ("--repair-epochs", "--repair.epochs"),
        ("--finetune-lr", "--finish.lr"),
        ("--prc-afp-epochs", "--press.epochs"),
        ("--total-epochs", "--epochs"),
    ],
)
def test_options_by_their_former_names(former: str, now: str) -> None:
    """They go on working, and say how they are called now; what is an option today stays what it is."""
    from rlprune.agents.commands.options import Section, parse
    from rlprune.agents.commands.prune import recipe_sections
    from rlprune.agents.runs.recipes import get_recipe
    from rlprune.spec import ProblemSpec

    sections = [Section(ProblemSpec, default=ProblemSpec()), *recipe_sections(get_recipe("prc"))]
    today = parse("prune", sections, [now, "0.5", "--repair-to", "0.3"])
    with pytest.warns(Warning, match=f"{former} is called {now} now"):
        assert parse("prune", sections, [former, "0.5", "--repair-to", "0.3"]) == today
    assert today["repair_to"] == 0.3


@pytest.mark.parametrize("given", [["--budgets", "30%", "50%"], ["--budgets=30%", "--budgets", "30%", "50%"]])
def test_a_percentage_is_a_fraction(given: list[str]) -> None:
    from rlprune.agents.commands.options import Section, parse

    @dataclass(frozen=True)
    class Asked:
        """Options.

        Attributes:
            budgets: Fractions.
            size: A number.
        """

        budgets: tuple[float, ...] = ()
        size: float = 1.0

    found = parse("prune", [Section(Asked, default=Asked())], [*given, "--size=7%"])
    assert found == {"budgets": (0.3, 0.5), "size": 0.07}


@pytest.mark.filterwarnings("default")
def test_a_mistake_is_told_without_the_notices_before_it(capsys):
    assert main(["prune", "--prc-alpha", "2"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "alpha is 2.0" in line


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("end", [None, UserError("a mistake"), KeyboardInterrupt()])
def test_notices_wait_for_the_first_word_of_progress(end, capsys):
    with contextlib.suppress(UserError, KeyboardInterrupt), holding("prune"):
        warnings.warn("one", Notice, stacklevel=1)
        tell("two")
        warnings.warn("of a package", UserWarning, stacklevel=1)
        assert not capsys.readouterr().err
        if end:
            raise end
        print("progress", file=sys.stderr)
        warnings.warn("three", Notice, stacklevel=1)
    said = capsys.readouterr().err
    assert ("two\n" in said) == ("UserWarning: of a package" in said) == (not isinstance(end, UserError))
    assert end or said.endswith("progress\nrlprune prune: three\n")
