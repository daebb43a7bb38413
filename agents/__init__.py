"""Controllers that set pruning rates: rules and trained agents, and the engine that plays them."""

if __name__ == "agents":
    raise ImportError("this folder is the package rlprune.agents: write `import rlprune.agents`, not `import agents`")

from importlib import import_module
from typing import Any

_HOMES = {
    "AgentSettings": "rl.settings",
    "Controller": "controllers.base",
    "Episode": "controllers.base",
    "PRC": "controllers.prc",
    "Recipe": "runs.recipe",
    "RoundRule": "controllers.base",
    "Rule": "controllers.base",
    "TrainedAgent": "rl.sb3",
    "get_recipe": "runs.recipes",
    "list_recipes": "runs.recipes",
    "list_rules": "controllers.registry",
    "load_agent": "rl.sb3",
    "make_controller": "runs.playing",
    "play": "runs.engine",
    "read_recipe": "runs.recipe",
    "rebuild": "runs.replaying",
    "replay": "runs.replaying",
    "run_episode": "controllers.base",
    "train": "rl.training",
    "write_card": "rl.cards",
}

__all__ = [*_HOMES]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: torch and Stable-Baselines3 take seconds."""
    if name in _HOMES:
        return getattr(import_module(f"rlprune.agents.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
