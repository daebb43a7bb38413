"""Controllers that set pruning rates: rules and trained agents, and the jobs that run them."""

if __name__ == "agents":
    raise ImportError("this folder is the package rlprune.agents: write `import rlprune.agents`, not `import agents`")

from rlprune.agents.controller import RULES, Controller, Episode, Rule, make_controller, run_episode
from rlprune.agents.fixed import PerLayerTable, Polynomial, Uniform
from rlprune.agents.methods import METHODS, Pfec
from rlprune.agents.prc import PRC
from rlprune.agents.pruning import PruneSettings, prune
from rlprune.agents.replaying import rebuild, replay
from rlprune.agents.search import CrossEntropySearch, RandomSearch

__all__ = [
    "METHODS",
    "PRC",
    "RULES",
    "Controller",
    "CrossEntropySearch",
    "Episode",
    "PerLayerTable",
    "Pfec",
    "Polynomial",
    "PruneSettings",
    "RandomSearch",
    "Rule",
    "Uniform",
    "make_controller",
    "prune",
    "rebuild",
    "replay",
    "run_episode",
]
