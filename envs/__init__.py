"""Filter pruning as Gymnasium environments: `rlprune/IterativePruning-v0` and `rlprune/LayerwisePruning-v0`."""

if __name__ == "envs":
    raise ImportError("this folder is the package rlprune.envs: write `import rlprune.envs`, not `import envs`")

from importlib import import_module
from typing import TYPE_CHECKING, Any

from rlprune.envs.registration import ITERATIVE, LAYERWISE, MIXED, TABLE, register

if TYPE_CHECKING:
    from rlprune.envs.advice import AroundAdvice as AroundAdvice
    from rlprune.envs.env import FilterPruningEnv as FilterPruningEnv
    from rlprune.envs.episode.cache import ScoreCache as ScoreCache
    from rlprune.envs.episode.rewards import list_rewards as list_rewards
    from rlprune.envs.episode.rewards import make_reward as make_reward
    from rlprune.envs.making import make_env as make_env
    from rlprune.envs.mixed import MixedPruningEnv as MixedPruningEnv
    from rlprune.envs.rules import Rules as Rules
    from rlprune.envs.table import ScoreTable as ScoreTable
    from rlprune.envs.table import TablePruningEnv as TablePruningEnv
    from rlprune.envs.wrappers import DiscreteRates as DiscreteRates
    from rlprune.envs.wrappers import RecordEpisode as RecordEpisode
    from rlprune.envs.wrappers import WholeNetworkAction as WholeNetworkAction

_HOMES = {
    "advice": ("AroundAdvice",),
    "env": ("FilterPruningEnv",),
    "episode.cache": ("ScoreCache",),
    "episode.rewards": ("list_rewards", "make_reward"),
    "making": ("make_env",),
    "mixed": ("MixedPruningEnv",),
    "rules": ("Rules",),
    "table": ("ScoreTable", "TablePruningEnv"),
    "wrappers": ("DiscreteRates", "RecordEpisode", "WholeNetworkAction"),
}
__all__ = ["ITERATIVE", "LAYERWISE", "MIXED", "TABLE", "register", *(n for names in _HOMES.values() for n in names)]


def __getattr__(name: str) -> Any:
    # Registering must not load torchvision and the data sets: the classes come when they are asked for.
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"rlprune.envs.{home}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
