"""Controllers that set pruning rates: rules and trained agents, and the jobs that run them."""

if __name__ == "agents":
    raise ImportError("this folder is the package rlprune.agents: write `import rlprune.agents`, not `import agents`")

from rlprune.agents.controller import RULES, Controller, Episode, Rule, make_controller, run_episode
from rlprune.agents.prc import PRC
from rlprune.agents.pruning import PruneSettings, prune
from rlprune.agents.replaying import rebuild, replay

__all__ = [
    "PRC",
    "RULES",
    "Controller",
    "Episode",
    "PruneSettings",
    "Rule",
    "make_controller",
    "prune",
    "rebuild",
    "replay",
    "run_episode",
]
