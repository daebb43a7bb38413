"""rlprune: adaptive filter pruning of convolutional networks, framed as a Gymnasium environment.

The names below are the ones to start with; everything else is found one level down, where it lives:
`rlprune.channels`, `rlprune.criteria`, `rlprune.recovery`, `rlprune.training`, `rlprune.tasks`, `rlprune.data`,
`rlprune.models`, `rlprune.envs`, `rlprune.agents`.
"""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

_HOMES = {
    "trace_channels": "rlprune.channels",
    "PruningPlan": "rlprune.channels",
    "remove_channels": "rlprune.channels",
    "mask_channels": "rlprune.channels",
    "count_macs": "rlprune.cost",
    "count_parameters": "rlprune.cost",
    "UserError": "rlprune.errors",
    "PruningProblem": "rlprune.problem",
    "make_env": "rlprune.envs.making",
    "prune": "rlprune.agents.runs.prune",
}

__all__ = [*_HOMES]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that `import rlprune` costs nothing."""
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'rlprune' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])


def _register_environments() -> None:
    """Make `gymnasium.make("rlprune:rlprune/...")` work: Gymnasium imports this module and expects the ids after it."""
    if importlib.util.find_spec("gymnasium") is not None:  # the engine needs torch and NumPy alone
        importlib.import_module("rlprune.envs.registration").register()


_register_environments()
