"""Controllers that set pruning rates: rules and trained agents, and the jobs that run them."""

if __name__ == "agents":
    raise ImportError("this folder is the package rlprune.agents: write `import rlprune.agents`, not `import agents`")

from importlib import import_module
from typing import TYPE_CHECKING, Any

from rlprune.agents.controllers.base import RULES, Controller, Episode, Rule, make_controller, run_episode
from rlprune.agents.controllers.error import LeastError
from rlprune.agents.controllers.fixed import PerLayerTable, Polynomial, Uniform
from rlprune.agents.controllers.pfec import Pfec
from rlprune.agents.controllers.prc import PRC
from rlprune.agents.controllers.search import CrossEntropySearch, RandomSearch
from rlprune.agents.controllers.sensitivity import SensitivityRule
from rlprune.agents.runs.pruning import PruneSettings, prune
from rlprune.agents.runs.recipes import METHODS
from rlprune.agents.runs.replaying import rebuild, replay

if TYPE_CHECKING:
    from rlprune.agents.rl.sb3 import TrainedAgent, load_agent
    from rlprune.agents.rl.settings import AgentSettings
    from rlprune.agents.rl.training import train

__all__ = [
    "METHODS",
    "PRC",
    "RULES",
    "AgentSettings",
    "Controller",
    "CrossEntropySearch",
    "Episode",
    "LeastError",
    "PerLayerTable",
    "Pfec",
    "Polynomial",
    "PruneSettings",
    "RandomSearch",
    "Rule",
    "SensitivityRule",
    "TrainedAgent",
    "Uniform",
    "load_agent",
    "make_controller",
    "prune",
    "rebuild",
    "replay",
    "run_episode",
    "train",
]

# Stable-Baselines3 takes seconds to import: only those who train or load an agent wait for it.
_HOMES = {"AgentSettings": "rl.settings", "TrainedAgent": "rl.sb3", "load_agent": "rl.sb3", "train": "rl.training"}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"rlprune.agents.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
