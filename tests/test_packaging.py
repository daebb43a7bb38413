"""The three top-level folders install as one package, whichever way they are installed."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

tomllib = pytest.importorskip("tomllib")  # Python 3.11

ROOT = Path(__file__).resolve().parent.parent
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]


def packages_on_disk():
    found = set()
    for folder, package in (("rlprune", "rlprune"), ("envs", "rlprune.envs"), ("agents", "rlprune.agents")):
        for init in (ROOT / folder).glob("**/__init__.py"):
            parts = init.parent.relative_to(ROOT / folder).parts
            if folder == "rlprune" and parts[:1] in (("envs",), ("agents",)):
                continue  # the symlinks
            found.add(".".join([package, *parts]))
    return found


def test_the_package_list_is_what_is_on_disk():
    assert set(SETTINGS["packages"]) == packages_on_disk()


@pytest.mark.parametrize("name", ["envs", "agents"])
def test_the_symlinks_point_at_the_folders(name):
    link = ROOT / "rlprune" / name
    assert link.is_symlink() and link.resolve() == ROOT / name


@pytest.mark.parametrize("name", ["envs", "agents"])
def test_the_bare_name_is_refused_with_the_right_one(name):
    run = subprocess.run([sys.executable, "-c", f"import {name}"], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 1
    assert f"import rlprune.{name}" in run.stderr.splitlines()[-1]


def test_the_engine_imports_without_the_rest():
    blocked = ["torchvision", "gymnasium", "stable_baselines3", "sklearn", "matplotlib", "rich", "tensorboard", "yaml"]
    code = (
        f"import sys\nfor name in {blocked}: sys.modules[name] = None\n"
        "import rlprune, rlprune.channels, rlprune.criteria, rlprune.recovery, rlprune.cost\n"
        "print(rlprune.trace_channels)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


def test_a_bare_import_stays_light():
    code = (
        "import sys, rlprune\n"
        "print([m for m in ('torchvision', 'stable_baselines3', 'matplotlib', 'sklearn', 'torch') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_a_wheel_holds_everything_and_runs_elsewhere(tmp_path):
    """Build a wheel, unpack it far from the checkout, import all of it from there."""
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--outdir", str(tmp_path), str(ROOT)],
        check=True,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    assert (site / "rlprune" / "py.typed").exists()
    code = "import rlprune, rlprune.envs, rlprune.agents; print(rlprune.__file__, rlprune.envs.__file__)"
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env={"PYTHONPATH": str(site)}, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.split() == [str(site / "rlprune" / "__init__.py"), str(site / "rlprune" / "envs" / "__init__.py")]
