"""What the groups of a round cost, by kind of curve, and which kind to go by."""

from __future__ import annotations

from collections.abc import Sequence

from rlprune.criteria import plan_from_counts
from rlprune.envs.episode.damage import Damage, Ranking
from rlprune.envs.episode.rounds import Round
from rlprune.envs.episode.transitions import NetworkState, Transitions

CLEARLY = 0.95  # of two changes of the outputs, the factor from which on they differ by more than noise


class Advisor:
    """Finds damages when they are asked for, and keeps those of the last round."""

    def __init__(self, transitions: Transitions, names: Sequence[str], seed: int) -> None:
        self.transitions, self.names, self.seed = transitions, names, seed
        self._last: dict[str, tuple[Ranking, Round, Damage | None]] = {}

    def damage(self, kind: str, state: NetworkState, ranking: Ranking, current: Round) -> Damage | None:
        """What a round's groups cost; None if it cannot be known.

        Curves by `response` know nothing of what groups do to each other: where the schedule by one of the two curves
        that it is the mean of clearly changes the outputs as a whole less, it is that one's.
        """
        known = self._last.get(kind)
        if known is None or known[0] is not ranking or known[1] is not current:
            self.transitions.measure(kind, ranking, state, self.names, self.seed)
            found = ranking.damage(kind, current.names, current.budget, current.shares)
            curves = ranking.curves  # in which errors may stand in for what the outputs do
            if kind == "response" and found is not None and curves["outputs"] is not curves["error"]:
                found = self._least(found, state, ranking, current)
            known = self._last[kind] = ranking, current, found
        return known[2]

    def _least(self, found: Damage, state: NetworkState, ranking: Ranking, current: Round) -> Damage | None:
        """`found`, or what another curve says, if that changes the outputs clearly less; of more the least."""
        chosen: Damage | None = found
        least = CLEARLY * self._change(found, state, ranking, current)
        for other in ("error", "outputs"):
            damage = self.damage(other, state, ranking, current)
            change = self._change(damage, state, ranking, current)
            if change < least:
                chosen, least = damage, change
        return chosen

    def _change(self, damage: Damage | None, state: NetworkState, ranking: Ranking, current: Round) -> float:
        """What the outputs change by where the groups lose what sums to least."""
        removed = current.named(current.advised_counts(damage))
        plan = plan_from_counts(state.network.groups, ranking.scores, removed)
        return self.transitions.change(state, plan, self.seed)
