"""Transitions without a network: scores come from a table or a formula."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any, cast

from numpy.typing import NDArray
from torch import nn

from rlprune.channels import ChannelGroups, PruningPlan
from rlprune.envs.episode.cache import MemoryScores
from rlprune.envs.episode.damage import Ranking
from rlprune.envs.episode.transitions import NetworkState, Repairs, Transitions
from rlprune.errors import UserError
from rlprune.network import Network
from rlprune.problem import PruningProblem
from rlprune.recovery import make_recovery
from rlprune.tasks import Score

ByGroup = dict[str, NDArray[Any]]


class NoNetwork(nn.Module):
    """Stands where a network would; it cannot be called."""

    def forward(self, *_: Any) -> Any:
        """Raises UserError."""
        raise UserError("here are scores and no networks; play the plan in an environment of the network itself")


class OfflineTransitions(Transitions):
    """Looks scores up by plan; there are no networks, only groups that follow what is removed.

    Args:
        groups: The unpruned network's groups.
        baseline: Its score.
        ranking: The score of every filter, by group, whatever the criterion.
        curves: What the groups cost their readers, as far as that is known.
        lookup: The score after a plan.
    """

    race = None  # a look-up costs nothing

    def __init__(
        self,
        groups: ChannelGroups,
        baseline: Score,
        ranking: ByGroup,
        curves: ByGroup,
        lookup: Callable[[PruningPlan], Score],
    ) -> None:
        problem = cast(PruningProblem, SimpleNamespace(groups=groups, baseline=baseline))
        super().__init__(problem, make_recovery("none"), MemoryScores())
        self._ranking, self._curves, self._lookup = ranking, curves, lookup

    def base(self) -> NetworkState:
        """The whole network."""
        return self._state(PruningPlan())

    def _state(self, plan: PruningPlan) -> NetworkState:
        groups = self.problem.groups
        return NetworkState("offline", plan, lambda: Network(NoNetwork(), groups.after(plan), plan))

    def after(self, state: NetworkState, plan: PruningPlan, seed: int, recovery: Repairs | None = None) -> NetworkState:
        """What is left after a plan."""
        return self._state(state.plan.then(plan, self.problem.groups) if state.plan else plan)

    def scores(self, criterion: str, state: NetworkState, seed: int) -> ByGroup:
        """The score of every filter, by group."""
        return self._ranking

    def measure(self, kind: str, ranking: Ranking, state: NetworkState, names: Sequence[str], seed: int) -> None:
        """The curves that were recorded; no others can be had."""
        ranking.curves.update({kind: self._curves, "error": self._curves})

    def score(self, state: NetworkState) -> Score:
        """The score that was recorded, or follows."""
        return self._lookup(state.plan)

    def leave(self, state: NetworkState) -> None:
        """Nothing was measured."""

    def close(self) -> None:
        """Nothing is open."""
