"""A small valid file of every kind that is read, and what reads it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import yaml
from PIL import Image

from rlprune.agents.commands.agents import _recorded
from rlprune.agents.commands.episode import _card_rules
from rlprune.agents.commands.prune import recorded
from rlprune.agents.commands.sensitivity import ScanSettings
from rlprune.agents.compare.comparison import Comparison
from rlprune.agents.compare.settings import CompareSettings
from rlprune.agents.controllers.registry import make_rule
from rlprune.agents.rl.sb3 import load_agent, make_agent, save_agent
from rlprune.agents.rl.settings import AgentSettings, preset
from rlprune.agents.runs.basesettings import BaseSettings
from rlprune.agents.runs.population import PopulationSettings, content_of, read_settings
from rlprune.agents.runs.prune import prune_problem
from rlprune.agents.runs.recipe import read_recipe
from rlprune.agents.runs.recipes import get_recipe
from rlprune.artifact import load_pruned
from rlprune.data import load_data
from rlprune.envs.episode.cache import ScoreCache
from rlprune.envs.registration import MIXED
from rlprune.envs.toy import ToyPruningEnv
from rlprune.errors import reading
from rlprune.files import read_json
from rlprune.models import create_model, load_weights
from rlprune.record import RunFolder, newest_unfinished
from rlprune.report.content import load_content
from rlprune.report.html import render
from rlprune.report.pareto import archive, find_networks
from rlprune.scoring.sensitivity import Sensitivity
from rlprune.seals import KEY
from rlprune.spec import ProblemSpec, weights_meta
from rlprune.tasks import Score

SPEC = ProblemSpec(control_size=60, calibration_size=40)
QUICK = get_recipe("uniform").change(tolerance=0.5, epochs=0.0, rounds=1, skip=[])
PPO = {"policy": "MlpPolicy", "n_steps": 8, "batch_size": 8}


class Seed(NamedTuple):
    """A file inside a folder, and what looks into it: raises nothing but UserError, whatever the file holds."""

    file: str
    make: Callable[[Path], object]
    read: Callable[[Path], object]


def plain(path: Path, content: Any) -> None:
    """Write JSON or YAML without a checksum, which would keep what is changed from being looked at."""
    if isinstance(content, dict):
        content = {name: value for name, value in content.items() if name != KEY}
    path.write_text(json.dumps(content) if path.suffix == ".json" else yaml.safe_dump(content))


def run_folder(folder: Path) -> None:
    prune_problem(SPEC.build(), QUICK, folder=RunFolder(folder), timed=False)
    plain(folder / "record.json", read_json(folder / "record.json"))


def look_at_run(folder: Path) -> None:
    archive(find_networks(folder))
    newest_unfinished(folder.parent)
    recorded(["--resume", "--out", str(folder)])
    BaseSettings.from_record(RunFolder(folder).read(), folder)


def report(folder: Path) -> None:
    with reading(folder, "a run or a comparison"):
        render(load_content(folder))


def grid() -> CompareSettings:
    return CompareSettings(methods=("uniform",), seeds=(0,), budgets=(0.5,), epochs=0.0, problem=SPEC)


def comparison(folder: Path) -> None:
    made = Comparison(grid(), folder)
    for job in made.jobs():
        made.take(job, job.run())
    made.write()
    for file in folder.rglob("*.json"):
        plain(file, read_json(file))


def look_at_cells(folder: Path) -> None:
    archive(find_networks(folder))
    again = Comparison(grid(), folder)
    again.load()
    again.write()


def resume_comparison(folder: Path) -> None:
    with reading(folder, "a comparison"):
        CompareSettings.from_json(read_json(folder / "comparison.json")["settings"])


def agent(folder: Path) -> None:
    made = make_agent("ppo", ToyPruningEnv(), PPO, seed=0)
    training = {"tolerances": [0.01], "errors": True}
    support = {"low": [-1.0] * 33, "high": [1.0] * 33}
    support = {side: (values * 3)[: made.observation_space.shape[0]] for side, values in support.items()}  # type: ignore[index]
    env = {"kwargs": {"common": {"criterion": "l1", "skip": ["residual"]}, "max_rate": 0.9}}
    card = {"algorithm": "ppo", "hyperparameters": PPO, "levels": None, "around": "advice"}
    save_agent(folder / "agent.zip", made, {**card, "training": training, "support": support, "env": env})
    plain(folder / "agent.json", read_json(folder / "agent.json"))


def play_agent(folder: Path) -> None:
    loaded = load_agent(folder / "agent.zip")
    loaded.predict(ToyPruningEnv().reset(seed=0)[0])
    _card_rules(str(folder / "agent.zip"))


def lessons(folder: Path) -> None:
    kwargs = {"problems": [{"model": "lenet5"}], "budgets": [0.5], "tolerances": None, "max_rate": 0.9}
    settings = AgentSettings(env=MIXED, env_kwargs={**kwargs, "common": {"criterion": "l1", "skip": []}})
    plain(folder / "settings.json", settings.to_json())


def hyperparameters(folder: Path) -> None:
    more = {"gamma": 0.9, "learning_rate": "lin_0.001", "policy_kwargs": {"net_arch": [8]}}
    plain(folder / "preset.yml", {"default": PPO | {**more, "noise_type": None}})


def made_agent(folder: Path) -> None:
    make_agent("ppo", ToyPruningEnv(), preset("ppo", "default", str(folder / "preset.yml")), seed=0)


def scan(folder: Path) -> None:
    scores = {"conv1": [0.9, 0.5], "conv2": [0.8, 0.1]}
    found = Sensitivity({"seed": 0}, 0.95, (0.25, 0.5), scores, {"conv1": [5, 10], "conv2": [12, 25]})
    plain(folder / "sensitivity.json", found.to_json())


def read_scan(folder: Path) -> None:
    found = Sensitivity.read(folder / "sensitivity.json")
    assert all(found.largest_rate(name, 0.01) in (0.0, *found.rates) for name in found.order())


def scan_settings(folder: Path) -> None:
    with reading(folder / "settings.json", "the settings of a scan"):
        ScanSettings.from_json(read_json(folder / "settings.json"))


def coco(folder: Path) -> None:
    (folder / "train").mkdir(parents=True)
    for number in range(12):
        Image.fromarray(np.full((20, 24, 3), number, np.uint8)).save(folder / "train" / f"{number}.png")
    boxes = [{"id": n, "image_id": n, "category_id": 1 + n % 2, "bbox": [2, 3, 9, 8.5]} for n in range(12)]
    images = [{"id": n, "file_name": f"{n}.png", "height": 20, "width": 24} for n in range(12)]
    categories = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    plain(folder / "train.json", {"images": images, "annotations": boxes, "categories": categories})


def arrays(folder: Path) -> None:
    images = np.arange(80 * 64, dtype=np.uint32).astype(np.uint8).reshape(80, 8, 8)
    np.savez(folder / "data.npz", train=images, train_labels=np.arange(80) % 4)


def pictures(folder: Path) -> None:
    for number in range(20):
        (folder / f"class {number % 2}").mkdir(exist_ok=True, parents=True)
        picture = Image.fromarray(np.full((8, 9, 3), 10 * number, np.uint8))
        picture.save(folder / f"class {number % 2}" / f"{number:02d}.png")
    plain(folder / "dataset.yml", {"normalise": "none", "size": 8, "channels": 3})


def batches(folder: Path) -> None:
    next(iter(load_data(str(folder)).train.batches(4)))


def weights(folder: Path) -> None:
    content = {"state_dict": create_model("lenet5").state_dict(), "meta": {"control_size": 60, "normalise": "none"}}
    torch.save(content, folder / "w.pt")


def read_weights(folder: Path) -> None:
    weights_meta(str(folder / "w.pt"))
    load_weights(create_model("lenet5"), folder / "w.pt")


def pruned(folder: Path) -> None:
    shutil.copytree(made(TEXTS["record"], folder / "run"), folder, dirs_exist_ok=True)
    content = torch.load(folder / "model.pt", weights_only=True)
    torch.save(content, folder / "model.pt")


def cache(folder: Path) -> None:
    kept = ScoreCache(folder / "scores.sqlite")
    for number in range(3):
        kept.put(str(number), Score(0.5, 100), "base", {"conv1": number})
    kept.close()


def read_cache(folder: Path) -> None:
    kept = ScoreCache(folder / "scores.sqlite")
    try:
        assert kept.get("1") in (None, Score(0.5, 100))
        assert all(score == Score(0.5, 100) for _, _, score in kept.children("base"))
        kept.put("4", Score(0.25, 100), "base", {})
    finally:
        kept.close()


TEXTS = {
    "record": Seed("record.json", run_folder, look_at_run),
    "report": Seed("record.json", run_folder, report),
    "cell": Seed("cells/lenet5-digits-uniform-b0.5-s0/prune.json", comparison, look_at_cells),
    "cell's name": Seed("cells/lenet5-digits-uniform-b0.5-s0/cell.json", comparison, look_at_cells),
    "comparison": Seed("comparison.json", comparison, report),
    "comparison's settings": Seed("comparison.json", comparison, resume_comparison),
    "card": Seed("agent.json", agent, play_agent),
    "training's settings": Seed("settings.json", lessons, _recorded),
    "population": Seed(
        "population.json",
        lambda folder: plain(
            folder / "population.json", content_of(PopulationSettings(("plain",), networks=1), [], "", "running")
        ),
        read_settings,
    ),
    "preset": Seed("preset.yml", hyperparameters, made_agent),
    "recipe": Seed(
        "recipe.yml",
        lambda folder: plain(folder / "recipe.yml", get_recipe("prc").to_json()),
        lambda folder: read_recipe(folder / "recipe.yml"),
    ),
    "rates": Seed(
        "rates.json",
        lambda folder: plain(folder / "rates.json", {"conv*": 0.5, "fc1": 0.25}),
        lambda folder: make_rule("table", {"file": str(folder / "rates.json")}),
    ),
    "scan": Seed("sensitivity.json", scan, read_scan),
    "scan's settings": Seed(
        "settings.json", lambda folder: plain(folder / "settings.json", ScanSettings().to_json()), scan_settings
    ),
    "COCO": Seed("train.json", coco, batches),
    "data set": Seed("dataset.yml", pictures, batches),
}  # fmt: skip

BINARIES = {
    "weights": Seed("w.pt", weights, read_weights),
    "pruned network": Seed("model.pt", pruned, lambda folder: load_pruned(folder / "model.pt", create_model("lenet5"))),
    "agent": Seed("agent.zip", agent, play_agent),
    "arrays": Seed("data.npz", arrays, lambda folder: next(iter(load_data(str(folder / "data.npz")).train.batches(4)))),
    "picture": Seed("class 0/00.png", pictures, batches),
    "cache": Seed("scores.sqlite", cache, read_cache),
    "record as bytes": Seed("record.json", run_folder, look_at_run),
    "recipe as bytes": TEXTS["recipe"],
}


_made: dict[Any, Path] = {}


def made(seed: Seed, folder: Path) -> Path:
    """A folder with the seed in it, copied where it was made before."""
    if seed.make in _made:
        shutil.copytree(_made[seed.make], folder, dirs_exist_ok=True)
        return folder
    folder.mkdir(parents=True)
    seed.make(folder)
    _made[seed.make] = shutil.copytree(folder, folder.with_name("template"))
    return folder
