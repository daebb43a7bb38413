"""rlprune: adaptive filter pruning of convolutional networks, framed as a Gymnasium environment.

The names below are the ones to start with; everything else is found one level down, where it lives:
`rlprune.channels`, `rlprune.criteria`, `rlprune.recovery`, `rlprune.training`, `rlprune.tasks`, `rlprune.data`,
`rlprune.models`, `rlprune.envs`, `rlprune.agents`.
"""

from __future__ import annotations

import importlib.abc
import importlib.util
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType
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


class _WithGymnasium(importlib.abc.MetaPathFinder):
    """Registers the environments as soon as Gymnasium is imported, whoever does it: `import rlprune` need not."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """Gymnasium as it is found without this, with the registration behind its import."""
        if name != "gymnasium":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def executed(module: ModuleType) -> None:
                execute(module)
                _register_environments()

            spec.loader.exec_module = executed  # type: ignore[method-assign]
        return spec


def _register_environments() -> None:
    importlib.import_module("rlprune.envs.registration").register()


if sys.modules.get("gymnasium") is not None:
    _register_environments()
else:
    sys.meta_path.insert(0, _WithGymnasium())
