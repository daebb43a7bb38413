"""One round: the visit of every channel group that can give a filter, and the books of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from rlprune.channels import ChannelGroups, PruningPlan
from rlprune.cost import BilinearCost
from rlprune.envs.episode.budget import Budget, Counts, Window, choices
from rlprune.envs.observations import group_features, score_mass


@dataclass(frozen=True, eq=False)
class Scope:
    """The groups that rounds may visit, and what the counts removed from them cost.

    Attributes:
        groups: All groups of the unpruned network.
        names: The n groups in question, in execution order.
        sizes: Their filters (n,) in the unpruned network.
        macs, parameters: The cost of counts (n,) removed from the unpruned network.
    """

    groups: ChannelGroups
    names: tuple[str, ...]
    sizes: Counts
    macs: BilinearCost
    parameters: BilinearCost

    @classmethod
    def of(cls, groups: ChannelGroups, skip: tuple[str, ...] = ()) -> Scope:
        """All prunable groups but those of the kinds in `skip`."""
        names = tuple(group.name for group in groups.prunable if not group.kinds & set(skip))
        sizes = np.array([groups[name].size for name in names], dtype=np.int64)
        return cls(groups, names, sizes, BilinearCost.of_macs(groups, names), BilinearCost.of_parameters(groups, names))

    def removed(self, plan: PruningPlan) -> Counts:
        """Counts (n,) that a plan removes."""
        return np.array([plan.count(name) for name in self.names], dtype=np.int64)

    def options(self, cap: float, removed: Counts) -> dict[int, Counts]:
        """By group number, the counts that a group can give at rates up to `cap`; only groups that can give some."""
        found = {}
        for number, name in enumerate(self.names):
            group = replace(self.groups[name], size=int(self.sizes[number] - removed[number]))
            most = group.allowed(int(cap * group.size + 1e-9))
            if most > 0:
                found[number] = choices(group.size, most, group.round_to)
        return found


class Round:
    """The visits of one round.

    Attributes:
        visited: Numbers of the m groups of this round, in the order of the visits.
        removed: Counts (n,) gone from all groups before this round.
        counts: Counts (m,) that this round takes; 0 for groups not visited yet.
        visit: How many groups were visited.
        rates: The executed rates so far.
        departures: How far each was from the uniform rate at the time.
        lost: The sum over the visited groups of the share of the group's score that goes.
        macs_before, parameters_before: Cost before this round.
        macs, parameters: Cost now, as if what was taken so far were gone.
        budget: The round's budget over its m groups.
        window: The window of the current group.
        shares: The fraction (m,) of the present MACs that would go with each whole group.
        trained: Whether the network was trained in this round.
    """

    def __init__(self, scope: Scope, removed: Counts, cap: float, target: int | None, must_meet: bool) -> None:
        options = scope.options(cap, removed)
        self.scope = scope
        self.removed = removed
        self.visited = list(options)
        self._options = tuple(options.values())
        self._cap = cap
        self.counts: Counts = np.zeros(len(self.visited), dtype=np.int64)
        self.visit = 0
        self.rates: list[float] = []
        self.departures: list[float] = []
        self.lost = 0.0
        self.trained = False
        self.macs = self.macs_before = scope.macs(removed)
        self.parameters = self.parameters_before = scope.parameters(removed)
        self.budget = self.budget_for(target, must_meet)
        self.names = [scope.names[number] for number in self.visited]

    @property
    def done(self) -> bool:
        """Whether every group was visited."""
        return self.visit == len(self.visited)

    @property
    def place(self) -> int:
        """The current group's place in this round; the last one's once the round is over."""
        return min(self.visit, len(self.visited) - 1)

    @property
    def name(self) -> str:
        """The current group."""
        return self.names[self.place]

    @property
    def executed(self) -> Counts:
        """Counts (n,) gone from the unpruned network, this round's included."""
        executed: Counts = self.removed.copy()
        executed[self.visited] += self.counts
        return executed

    @property
    def potential(self) -> float:
        """Minus the mean share of the groups' scores lost so far in this round: known at once, telling of the drop."""
        return -self.lost / max(1, len(self.visited))

    def budget_for(self, target: int | None, must_meet: bool) -> Budget:
        """A budget over this round's groups."""
        fixed, macs = self.removed.copy(), self.scope.macs
        fixed[self.visited] = 0
        cost = replace(
            macs,
            a=macs.a - macs.A @ fixed,
            b=macs.b - macs.B @ fixed,
            A=macs.A[:, self.visited],
            B=macs.B[:, self.visited],
        )
        before = self.removed[self.visited]
        sizes = self.scope.sizes[self.visited] - before
        return Budget(cost, before, sizes, self._options, target, must_meet, default_rate=self._cap / 2)

    def rank(self, groups: ChannelGroups, scores: Mapping[str, NDArray[np.float64]]) -> None:
        """Take in the criterion's scores of the filters of the current network, whose groups are `groups`."""
        scope = self.scope
        shares = [cost.shares(scope.sizes - self.removed, self.removed) for cost in (scope.macs, scope.parameters)]
        self.shares, parameter_share = (share[self.visited] for share in shares)
        self.mass = [score_mass(scores[name]) for name in self.names]
        self.features = group_features(
            groups, self.names, scope.sizes[self.visited], self.shares, parameter_share, scores
        )
        self.look()

    def rank_as(self, other: Round) -> None:
        """Take over the ranking of another round of the same groups in the same network."""
        self.mass, self.features, self.shares = other.mass, other.features, other.shares
        self.look()

    def look(self) -> None:
        """Work out the current group's window."""
        self.window: Window = self.budget.window(self.place, self.counts)

    def take(self, count: int) -> float:
        """Take `count` filters from the current group and go on to the next; returns the rate."""
        rate = count / self.window.size
        self.counts[self.place] = count
        self.rates.append(rate)
        self.departures.append(rate - self.window.uniform_rate)
        self.lost += float(self.mass[self.place][count])
        self.visit += 1
        self.macs, self.parameters = self.scope.macs(self.executed), self.scope.parameters(self.executed)
        if not self.done:
            self.look()
        return rate

    def uniform_counts(self, target: int) -> Counts:
        """The counts (m,) of the uniform schedule that ends at `target` MACs, or as near above as it can."""
        return self.budget_for(target, must_meet=True).fill(lambda group, counts, window: window.count(0.0))

    def named(self, counts: Counts) -> dict[str, int]:
        """Counts by group, without zeros."""
        return {name: int(count) for name, count in zip(self.names, counts, strict=True) if count}
