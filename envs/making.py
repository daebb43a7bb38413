"""An environment for a problem at hand, by the name of the game."""

from __future__ import annotations

from typing import Any

from rlprune.envs.env import FilterPruningEnv
from rlprune.envs.registration import GAMES
from rlprune.errors import check_known
from rlprune.problem import PruningProblem


def make_env(game: str, problem: PruningProblem, **rules: Any) -> FilterPruningEnv:
    """The environment of a game, for a live problem, which is shared and never changed.

    Args:
        game: `layerwise` (one round that meets a budget) or `iterative` (rounds until the tolerance is reached).
        problem: What is pruned. What a live one costs is said at `FilterPruningEnv`.
        rules: Fields of `rlprune.envs.Rules`, and `recovery`, `cache` and `render_mode` of `FilterPruningEnv`.

    Raises:
        UserError: For an unknown game or rule, or a value that cannot be.
    """
    check_known("game", game, GAMES)
    return FilterPruningEnv(problem=problem, **{**GAMES[game], **rules})
