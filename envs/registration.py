"""The ids by which `gymnasium.make` knows the environments."""

from __future__ import annotations

import gymnasium

ITERATIVE = "rlprune/IterativePruning-v0"
LAYERWISE = "rlprune/LayerwisePruning-v0"
MIXED = "rlprune/MixedPruning-v0"
TABLE = "rlprune/TablePruning-v0"
TOY = "rlprune/ToyPruning-v0"

_ENTRY_POINT = "rlprune.envs.env:FilterPruningEnv"


def register() -> None:
    """Register the environments with Gymnasium. Calling it again does nothing.

    `rlprune/IterativePruning-v0` plays rounds until the tolerance is reached; `rlprune/LayerwisePruning-v0` plays one
    round that meets a MACs budget, and pays the score (the setting of AMC, He et al. 2018). `rlprune/MixedPruning-v0`
    draws network and goal anew for every episode, to train agents; `rlprune/TablePruning-v0` serves recorded
    scores; `rlprune/ToyPruning-v0` is a formula whose best schedule is known.
    """
    if ITERATIVE not in gymnasium.registry:
        gymnasium.register(ITERATIVE, entry_point=_ENTRY_POINT)
    if LAYERWISE not in gymnasium.registry:
        kwargs = {"one_shot": True, "reward": "accuracy", "budget": 0.5, "max_rate": 0.9, "tolerance": 0.05}
        gymnasium.register(LAYERWISE, entry_point=_ENTRY_POINT, kwargs=kwargs)
    if MIXED not in gymnasium.registry:
        gymnasium.register(MIXED, entry_point="rlprune.envs.mixed:MixedPruningEnv")
    if TABLE not in gymnasium.registry:
        gymnasium.register(TABLE, entry_point="rlprune.envs.table:TablePruningEnv")
    if TOY not in gymnasium.registry:
        gymnasium.register(TOY, entry_point="rlprune.envs.toy:ToyPruningEnv")
