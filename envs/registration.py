"""The ids by which `gymnasium.make` knows the environments."""

from __future__ import annotations

from typing import Any

ITERATIVE = "rlprune/IterativePruning-v0"
LAYERWISE = "rlprune/LayerwisePruning-v0"
MIXED = "rlprune/MixedPruning-v0"
TABLE = "rlprune/TablePruning-v0"
TOY = "rlprune/ToyPruning-v0"

GAMES: dict[str, dict[str, Any]] = {
    "iterative": {},
    "layerwise": {"one_shot": True, "reward": "accuracy", "budget": 0.5, "max_rate": 0.9, "tolerance": 0.05},
}
"""By name of the game, the rules that differ from `rlprune.envs.Rules`."""


def register() -> None:
    """Register the environments with Gymnasium. Calling it again does nothing.

    `rlprune/IterativePruning-v0` plays rounds until the tolerance is reached; `rlprune/LayerwisePruning-v0` plays one
    round that meets a MACs budget, and pays the score (the setting of AMC, He et al. 2018). `rlprune/MixedPruning-v0`
    draws network and goal anew for every episode, to train agents; `rlprune/TablePruning-v0` serves recorded
    scores; `rlprune/ToyPruning-v0` is a formula whose best schedule is known.
    """
    import gymnasium  # which calls this when it is imported (see `rlprune/__init__.py`)

    for name, entry_point, rules in (
        (ITERATIVE, "env:FilterPruningEnv", GAMES["iterative"]),
        (LAYERWISE, "env:FilterPruningEnv", GAMES["layerwise"]),
        (MIXED, "mixed:MixedPruningEnv", {}),
        (TABLE, "table:TablePruningEnv", {}),
        (TOY, "toy:ToyPruningEnv", {}),
    ):
        if name not in gymnasium.registry:
            gymnasium.register(name, entry_point=f"rlprune.envs.{entry_point}", kwargs=dict(rules))
