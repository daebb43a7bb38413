"""Filter pruning as Gymnasium environments: `rlprune/IterativePruning-v0` and `rlprune/LayerwisePruning-v0`."""

if __name__ == "envs":
    raise ImportError("this folder is the package rlprune.envs: write `import rlprune.envs`, not `import envs`")

from typing import TYPE_CHECKING, Any

from rlprune.envs.registration import ITERATIVE, LAYERWISE, MIXED, TABLE, register

if TYPE_CHECKING:
    from rlprune.envs.advice import AroundAdvice
    from rlprune.envs.env import FilterPruningEnv
    from rlprune.envs.episode.cache import ScoreCache
    from rlprune.envs.episode.rewards import list_rewards, make_reward
    from rlprune.envs.making import make_env
    from rlprune.envs.mixed import MixedPruningEnv
    from rlprune.envs.rules import Rules
    from rlprune.envs.table import ScoreTable, TablePruningEnv
    from rlprune.envs.wrappers import DiscreteRates, RecordEpisode, WholeNetworkAction

__all__ = [
    "ITERATIVE",
    "LAYERWISE",
    "MIXED",
    "TABLE",
    "AroundAdvice",
    "DiscreteRates",
    "FilterPruningEnv",
    "MixedPruningEnv",
    "RecordEpisode",
    "Rules",
    "ScoreCache",
    "ScoreTable",
    "TablePruningEnv",
    "WholeNetworkAction",
    "list_rewards",
    "make_env",
    "make_reward",
    "register",
]

_HOMES = {
    "AroundAdvice": "advice",
    "DiscreteRates": "wrappers",
    "FilterPruningEnv": "env",
    "MixedPruningEnv": "mixed",
    "RecordEpisode": "wrappers",
    "Rules": "rules",
    "ScoreCache": "episode.cache",
    "ScoreTable": "table",
    "TablePruningEnv": "table",
    "WholeNetworkAction": "wrappers",
    "list_rewards": "episode.rewards",
    "make_env": "making",
    "make_reward": "episode.rewards",
}


def __getattr__(name: str) -> Any:
    # Registering must not load torchvision and the data sets: the classes come when they are asked for.
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(f"rlprune.envs.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
