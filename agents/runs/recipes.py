"""The recipes by name: each method seeking the tolerance with one budget of epochs, and its paper's own schedule."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from rlprune.agents.runs.recipe import Recipe, read_recipe
from rlprune.errors import check_known
from rlprune.training.settings import TrainSettings

CYCLE = TrainSettings(optimizer="adamw", lr=0.002, distillation=0.9)
"""One annealed cycle after a removal, in imitation of the unpruned network, which on little data teaches more than
labels (Hinton et al. 2015). AdamW, since its step does not depend on how a network is scaled."""


def _seeking(method: str, summary: str, **changes: object) -> Recipe:
    return Recipe(repair=CYCLE, finish=CYCLE).change(
        **{"method": method, "controller": method, "summary": summary, **changes}
    )


RECIPES: dict[str, Recipe] = {
    recipe.method: recipe
    for recipe in (
        _seeking("prc", "AFP + PRC: the min-max game, pressure and step set by what is left of the tolerance", skip=()),
        _seeking("uniform", "The same rate for every layer"),
        _seeking("error", "Rates at which the reconstruction errors of all layers sum to least"),
        _seeking("response", "Rates at which what each layer does to the outputs of the network sums to least"),
        _seeking("pfec", "PFEC: rates by stage (published tables, or a sensitivity scan), lowest L1 norms"),
        _seeking("sensitivity", "Every layer gives what it can at one level of harm, from a scan"),
        _seeking("fpsl", "FPSL: one global threshold on successive layers' norms", criterion="fpsl"),
        _seeking("msvfp", "MSVFP: a step of one layer at a time, the one that costs the least loss", criterion="l2"),
        _seeking("importance-weights", "Importance weights: learned gates on the filters, the smallest go"),
        _seeking("slimming", "Network slimming: L1 on batch-norm scales while training, one global percentile",
                 criterion="bn_scale"),
        _seeking("eagleeye", "EagleEye: the best of many random schedules", controller="random", recovery="bn"),
        _seeking("amc-rules", "AMC's rules, layer by layer inside a MACs budget, any controller", controller="cem"),
        _seeking("random", "The best of many random schedules"),
        _seeking("cem", "Cross-entropy search over schedules"),
    )
}  # fmt: skip


@cache
def published_recipes() -> dict[str, Recipe]:
    """The papers' own schedules by name; constants that the papers' texts do not give are reconstructed."""
    rounds: dict[str, Any] = {"published": True, "check": "end", "max_rate": 1.0}
    once: dict[str, Any] = {"published": True, "once": True, "check": "end", "max_rate": 0.95}
    return {
        "prc": RECIPES["prc"].change(
            published=True, max_rate=0.5, options={"rebisect": False},
            repair=TrainSettings(epochs=10.0, schedule="constant", orthogonality=1e-4),
            press=TrainSettings(epochs=1.0, orthogonality=1e-4), finish={"epochs": 0.0},
        ),
        "uniform": RECIPES["uniform"].change(**once, budget=0.5, finish=TrainSettings(epochs=10.0, lr=0.05)),
        "pfec": RECIPES["pfec"].change(
            **once, recovery="none",
            finish=TrainSettings(epochs=40.0, lr=0.001, weight_decay=1e-4, schedule="constant"),
        ),
        # 300 epochs in all, lr 0.1, times 0.1 at 150 and 225 counted from the start; an epoch after every small removal
        "fpsl": RECIPES["fpsl"].change(
            **rounds, recovery="finetune", epochs=300.0,
            repair=TrainSettings(epochs=1.0, lr=0.1, batch_size=256, schedule="constant"),
            finish=TrainSettings(epochs=300.0, lr=0.1, schedule="step", milestones=(150.0, 225.0), batch_size=256),
        ),
        "msvfp": RECIPES["msvfp"].change(
            **rounds, recovery="none",
            press=TrainSettings(epochs=1.0, batch_size=256, schedule="constant", nesterov=True),
            finish=TrainSettings(epochs=160.0, schedule="step", milestones=(40.0, 80.0, 120.0), gamma=0.2,
                                 batch_size=256, nesterov=True),
        ),
        "importance-weights": RECIPES["importance-weights"].change(
            **{**rounds, "max_rate": 0.9}, finish=TrainSettings(epochs=20.0)
        ),
        "slimming": RECIPES["slimming"].change(
            **{**once, "max_rate": 1.0}, recovery="none",
            press=TrainSettings(epochs=40.0, batch_size=64, weight_decay=1e-4, nesterov=True),
            finish=TrainSettings(epochs=40.0, batch_size=64, weight_decay=1e-4, nesterov=True),
        ),
        # Li et al. 2020: candidates inside the budget, ranked with batch norm re-estimated, the best one fine-tuned
        "eagleeye": RECIPES["eagleeye"].change(
            **{**once, "max_rate": 0.8}, budget=0.5, options={"episodes": 100}, finish=TrainSettings(epochs=40.0)
        ),
        # He et al. 2018: one visit of every layer inside a MACs budget, least-squares refit, no training meanwhile
        "amc-rules": RECIPES["amc-rules"].change(
            **{**once, "max_rate": 0.8}, recovery="lsq", budget=0.5, finish=TrainSettings(epochs=40.0)
        ),
    }  # fmt: skip


def list_recipes() -> list[str]:
    """Names of all recipes."""
    return sorted(RECIPES)


def get_recipe(name: str | Path | Recipe, *, published: bool = False) -> Recipe:
    """The recipe of a name, a YAML file, or the one given.

    Args:
        name: As in `list_recipes()`, or a path that ends in `.yml` or `.yaml`.
        published: The paper's own schedule.

    Raises:
        UserError: For an unknown name, or one without a schedule of its own.
    """
    if isinstance(name, Recipe):
        return replace(name, published=True) if published else name
    if str(name).endswith((".yml", ".yaml")):
        return read_recipe(name)
    check_known("method", str(name), RECIPES)
    if published:
        check_known("published method", str(name), published_recipes())
        return published_recipes()[str(name)]
    return RECIPES[str(name)]
