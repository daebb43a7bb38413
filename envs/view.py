"""What a rule may look at in a pruning environment."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlprune.channels import ChannelGroup
from rlprune.envs.episode.budget import Budget
from rlprune.envs.episode.racing import Trial, Worth, race
from rlprune.envs.episode.rewards import Terms
from rlprune.envs.episode.rounds import Scope
from rlprune.envs.episode.state import EpisodeState
from rlprune.envs.episode.telling import progress
from rlprune.envs.episode.transitions import Repairs
from rlprune.envs.episode.window import Counts
from rlprune.envs.observations import observation
from rlprune.errors import check_known
from rlprune.network import Network
from rlprune.tasks import Score

Observation = NDArray[np.float32]


class EpisodeView:
    """Where an episode stands, and what its current round allows, before anything is decided."""

    _episode: EpisodeState

    # The network and its score ----------------------------------------------------------------------------------

    @property
    def network(self) -> Network:
        """The network as it is at the start of this round."""
        return self._episode.state.network

    @property
    def accepted(self) -> Network:
        """The last network whose drop is inside the tolerance: what is handed back."""
        return self._episode.keeper.accepted.network

    @property
    def baseline(self) -> Score:
        """The unpruned network's control score."""
        return self._episode.keeper.baseline

    @property
    def score(self) -> Score:
        """The current network's control score."""
        return self._episode.score

    @property
    def drop(self) -> float:
        """Baseline minus the current score."""
        return self._episode.drop

    @property
    def tolerance(self) -> float:
        """The drop that this episode allows."""
        return self._episode.keeper.allowed

    @property
    def margin(self) -> float:
        """What the rules' confidence takes off the tolerance, for drops like the accepted network's."""
        return self._episode.keeper.margin(self._episode.keeper.score)

    @property
    def scores(self) -> dict[str, NDArray[np.float64]]:
        """The criterion's score of every filter of the current network, by group."""
        return self._episode.ranking.scores

    @property
    def history(self) -> list[dict[str, Any]]:
        """A record of every round done: rates, counts, cost, score, drop, reward terms."""
        return self._episode.history

    @property
    def round(self) -> int:
        """How many rounds are done."""
        return self._episode.round

    @property
    def rounds_left(self) -> float | None:
        """Rounds still expected, or None if nobody can know."""
        return self._episode.rounds_left

    # The current round ------------------------------------------------------------------------------------------

    @property
    def scope(self) -> Scope:
        """All groups that rounds may visit, and their cost."""
        return self._episode.scope

    @property
    def prunable(self) -> list[ChannelGroup]:
        """The groups of this round in the order of the visits, as they are at its start."""
        return [self.network.groups[name] for name in self._episode.current.names]

    @property
    def group(self) -> ChannelGroup:
        """The group that the next action is for."""
        return self.network.groups[self._episode.current.name]

    @property
    def visit(self) -> int:
        """How many groups of this round were visited: 0 at its start."""
        return self._episode.current.visit

    @property
    def visited(self) -> list[int]:
        """The places in `scope.names` of this round's groups."""
        return list(self._episode.current.visited)

    @property
    def rate_cap(self) -> float:
        """The largest rate allowed now: `max_rate`, halved at every retry."""
        return self._episode.cap

    @property
    def window(self) -> tuple[float, float]:
        """The least and the greatest feasible rate of the current group."""
        return self._episode.current.window.rates

    @property
    def uniform_rate(self) -> float:
        """The rate that action 0 stands for."""
        return self._episode.current.window.uniform_rate

    @property
    def budget(self) -> Budget:
        """This round's budget, over `prunable`."""
        return self._episode.current.budget

    @property
    def choices(self) -> dict[str, Counts]:
        """The counts (K,) that each group may lose in this round, ascending from 0, whatever the others lose."""
        return dict(zip(self._episode.current.names, self.budget.choices, strict=True))

    def feasible(self, counts: Mapping[str, int]) -> dict[str, int]:
        """The counts that this round executes if a rule asks for `counts` of its groups (none where one is not named).

        The nearest that the windows allow, one group after the other; what was visited already stays as it was.
        """
        for name in counts:
            check_known("group", name, self.scope.names)
        return self._episode.current.feasible(counts)

    def action_for(self, count: int) -> Observation:
        """The action (1,) that removes exactly `count` filters of the current group.

        A count outside the window is first moved to the nearest feasible one.
        """
        window = self._episode.current.window
        return np.array([window.action(window.nearest(count))], dtype=np.float32)

    @property
    def observation(self) -> Observation:
        """The observation of the current group."""
        current = self._episode.current
        return observation(current.features[current.place], progress(self._episode))

    # What would be ----------------------------------------------------------------------------------------------

    @property
    def curves(self) -> Mapping[str, NDArray[np.float64]]:
        """What the loss of 0, 1, 2 ... lowest filters costs, (size + 1,), by group of this round, where it is known."""
        damage = self._episode.damage()
        if damage is None:
            return {}
        found = zip(self._episode.current.names, damage.curves, damage.known, strict=True)
        return {name: curve for name, curve, known in found if known}

    @property
    def advised(self) -> float:
        """The count, a fraction, at which the cost of this and all later groups sums to least within the budget.

        See `advised_rates`; where no cost can be known, the uniform rate's count.
        """
        damage, current = self._episode.damage(), self._episode.current
        return current.window.uniform_rate * current.window.size if damage is None else current.advised(damage)

    def advised_rates(self, kind: str = "") -> NDArray[np.float64]:
        """The rates (n,) of a whole round at which the cost sums to least; the uniform ones where none is known.

        Args:
            kind: `error`, what least squares cannot restore of the outputs of the groups' readers, or `response`, how
                the network's own outputs change; nothing is what the environment's rules name.
        """
        damage = self._episode.damage(kind)
        return np.asarray(self._episode.current.advised_counts(damage) / self.budget.sizes)

    def preview(self, counts: Counts | Mapping[str, int], recovery: Repairs | None = None) -> tuple[Score, Terms]:
        """What this round would come to if its groups lost `counts`, recovery included.

        Costs an evaluation, changes nothing; playing the same counts afterwards finds the score again.

        Args:
            counts: By group, or one for each of `prunable`.
            recovery: Another one than the environment's, such as a cheaper one.
        """
        return self._episode.preview(self._counted(counts), recovery)

    def race(
        self, counts: Counts | Mapping[str, int], rival: Trial | None, worth: Worth, recovery: Repairs | None = None
    ) -> Trial:
        """As `preview`, but stopped once `rival` is better by `worth` with a probability of 99 %.

        Args:
            counts: By group, or one for each of `prunable`.
            rival: Who is in front; None scores all images.
            worth: What decides; it must not fall where the score rises.
            recovery: Another one than the environment's.
        """
        return race(self._episode, self._counted(counts), rival, worth, recovery)

    def _counted(self, counts: Counts | Mapping[str, int]) -> Counts:
        current = self._episode.current
        return current.counted(counts) if isinstance(counts, Mapping) else np.asarray(counts, dtype=np.int64)

    @property
    def state_key(self) -> str:
        """The key under which scores of what is made from the current network are kept."""
        return self._episode.state.key

    def key_of(self, removed: Mapping[str, int]) -> str:
        """The key of the network that this round would make by removing the `removed` lowest filters by group."""
        return self._episode.next(removed).key
