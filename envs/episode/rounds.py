"""One round: the visit of every channel group that can give a filter, and the books of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from rlprune.channels import ChannelGroups, PruningPlan
from rlprune.envs.episode.budget import BilinearCost, Budget, Counts, Walk
from rlprune.envs.episode.cursor import Column, Cursor, columns_of
from rlprune.envs.episode.damage import Advice, Damage
from rlprune.envs.episode.window import Window, choices
from rlprune.envs.observations import group_features, score_mass
from rlprune.errors import UserError

GROUNDS = 4  # that are kept: the unpruned network's is asked for in every episode


@dataclass(frozen=True, eq=False)
class Ground:
    """What a round's m groups can give.

    Attributes:
        visited: Their numbers in the scope.
        names: Their names.
        budget: What they may lose, without a target.
    """

    visited: list[int]
    names: list[str]
    budget: Budget


@dataclass(frozen=True, eq=False)
class Scope:
    """The groups that rounds may visit, and what the counts removed from them cost.

    Attributes:
        groups: All groups of the unpruned network.
        names: The n groups in question, in execution order.
        sizes: Their filters (n,) in the unpruned network.
        macs, parameters: The cost of counts (n,) removed from the unpruned network.
        counted: Which of the two budgets are of.
    """

    groups: ChannelGroups
    names: tuple[str, ...]
    sizes: Counts
    macs: BilinearCost
    parameters: BilinearCost
    counted: str = "macs"
    _grounds: dict[tuple[float, bytes], Ground] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, groups: ChannelGroups, skip: tuple[str, ...] = (), counted: str = "macs") -> Scope:
        """All prunable groups but those of the kinds in `skip`."""
        names = tuple(group.name for group in groups.prunable if not group.kinds & set(skip))
        sizes = np.array([groups[name].size for name in names], dtype=np.int64)
        costs = BilinearCost.of_macs(groups, names), BilinearCost.of_parameters(groups, names)
        return cls(groups, names, sizes, *costs, counted)

    @property
    def cost(self) -> BilinearCost:
        """The cost that budgets are of."""
        return self.macs if self.counted == "macs" else self.parameters

    @property
    def other(self) -> BilinearCost:
        """The one that they are not of."""
        return self.parameters if self.counted == "macs" else self.macs

    @cached_property
    def columns(self) -> tuple[Column, ...]:
        """What every group touches of the cost that budgets are of."""
        return columns_of(self.cost)

    @cached_property
    def other_columns(self) -> tuple[Column, ...]:
        """What every group touches of the other one."""
        return columns_of(self.other)

    def removed(self, plan: PruningPlan) -> Counts:
        """Counts (n,) that a plan removes."""
        return np.array([plan.count(name) for name in self.names], dtype=np.int64)

    def ground(self, cap: float, removed: Counts) -> Ground:
        """What the groups can give at rates up to `cap` after counts (n,) were removed; only those that can give."""
        key = (cap, removed.tobytes())
        if key not in self._grounds:
            if len(self._grounds) == GROUNDS:
                del self._grounds[next(iter(self._grounds))]
            self._grounds[key] = self._survey(cap, removed)
        return self._grounds[key]

    def check(self, max_rate: float, skip: tuple[str, ...]) -> None:
        """Raise UserError if no group can give a filter of the unpruned network."""
        if self.ground(max_rate, np.zeros_like(self.sizes)).visited:
            return
        others = f" that is not {' or '.join(skip)}" if skip else ""
        multiple, least = (max(getattr(x, name) for x in self.groups.prunable) for name in ("round_to", "min_channels"))
        widest = max(self.sizes, default=0)
        whole = f" and leaves a multiple of {multiple} (round_to)" if multiple > 1 else ""
        kept = f" and leaves {least} of them (min_channels)" if least > 2 or widest <= least else ""
        said = {"raise max_rate": max_rate < 1, "lower round_to": whole, "lower min_channels": kept, "skip less": skip}
        *ways, last = [way for way, applies in said.items() if applies] or ["take a wider network"]
        raise UserError(
            f"max_rate {max_rate} removes no filter from any group{others}{whole}{kept}; "
            f"the widest has {widest} filters: {', '.join(ways)}{' or ' if ways else ''}{last}"
        )

    def _survey(self, cap: float, removed: Counts) -> Ground:
        options: dict[int, Counts] = {}
        for number, name in enumerate(self.names):
            group = replace(self.groups[name], size=int(self.sizes[number] - removed[number]))
            most = group.allowed(int(cap * group.size + 1e-9))
            if most > 0:
                options[number] = choices(group.size, most, group.round_to)
        visited, cost = list(options), self.cost
        if len(visited) < len(self.names):
            fixed = removed.copy()
            fixed[visited] = 0
            a, b = cost.a - cost.A @ fixed, cost.b - cost.B @ fixed
            cost = replace(cost, a=a, b=b, A=cost.A[:, visited], B=cost.B[:, visited])
        before, columns = removed[visited], tuple(self.columns[number] for number in visited)
        sizes, counts = self.sizes[visited] - before, tuple(options.values())
        budget = Budget(cost, before, sizes, counts, None, default_rate=cap / 2, columns=columns)
        return Ground(visited, [self.names[number] for number in visited], budget)


class Round:
    """The visits of one round.

    Attributes:
        visited: Numbers of the m groups of this round, in the order of the visits.
        names: Their names.
        removed: Counts (n,) gone from all groups before this round.
        rates: The executed rates so far.
        departures: How far each was from the uniform rate at the time.
        lost: The sum over the visited groups of the share of the group's score that goes.
        cost_before, macs_before, parameters_before: Cost before this round.
        budget: The round's budget over its m groups.
        walk: Where the round stands in it.
        window: The window of the current group.
        shares: The fraction (m,) of the present cost that would go with each whole group.
        trained: Whether the network was trained in this round.
    """

    def __init__(self, scope: Scope, removed: Counts, cap: float, target: int | None, must_meet: bool) -> None:
        ground = scope.ground(cap, removed)
        self.scope, self.removed = scope, removed
        self.visited, self.names = ground.visited, ground.names
        self.budget = replace(ground.budget, target=target, must_meet=must_meet)
        self.rates: list[float] = []
        self.departures: list[float] = []
        self.lost = 0.0
        self.trained = False
        if not self.visited:
            return
        self.walk = Walk(self.budget)
        self._other = Cursor(scope.other, scope.other_columns, removed)
        self.cost_before, self.macs_before, self.parameters_before = self.cost, self.macs, self.parameters
        self._advice: Advice | None = None

    @property
    def counts(self) -> Counts:
        """Counts (m,) that this round takes; 0 for groups not visited yet."""
        return self.walk.counts

    @property
    def visit(self) -> int:
        """How many groups were visited."""
        return self.walk.group

    @property
    def cost(self) -> int:
        """What budgets are of, now, as if what was taken so far were gone."""
        return self.walk.done.total

    @property
    def macs(self) -> int:
        """The same in MACs."""
        return self.cost if self.scope.counted == "macs" else self._other.total

    @property
    def parameters(self) -> int:
        """The same in parameters."""
        return self._other.total if self.scope.counted == "macs" else self.cost

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

    def executed(self, counts: Counts | None = None) -> Counts:
        """Counts (n,) gone from the unpruned network, with `counts` (m,) or else what was taken in this round."""
        executed: Counts = self.removed.copy()
        executed[self.visited] += self.counts if counts is None else counts
        return executed

    @property
    def potential(self) -> float:
        """Minus the mean share of the groups' scores lost so far in this round: known at once, telling of the drop."""
        return -self.lost / max(1, len(self.visited))

    def rank(self, groups: ChannelGroups, scores: Mapping[str, NDArray[np.float64]]) -> None:
        """Take in the criterion's scores of the filters of the current network, whose groups are `groups`."""
        scope = self.scope
        costs = (scope.macs, scope.parameters)
        macs, parameters = (cost.shares(scope.sizes - self.removed, self.removed)[self.visited] for cost in costs)
        self.shares = macs if scope.counted == "macs" else parameters
        self.mass = [score_mass(scores[name]) for name in self.names]
        self.features = group_features(groups, self.names, scope.sizes[self.visited], macs, parameters, scores)
        self._look()

    def rank_as(self, other: Round) -> None:
        """Take over the ranking of another round of the same groups in the same network."""
        self.mass, self.features, self.shares = other.mass, other.features, other.shares
        self._look()

    def _look(self) -> None:
        """Work out the current group's window; what was advised is of another ranking."""
        self.window, self._advice = self.walk.window(), None

    def take(self, count: int) -> float:
        """Take `count` filters from the current group and go on to the next; returns the rate."""
        rate, place = count / self.window.size, self.visit
        self.rates.append(rate)
        self.departures.append(rate - self.window.uniform_rate)
        self.lost += float(self.mass[place][count])
        self.walk.take(count)
        self._other.move(self.visited[place], count)
        if not self.done:  # what is seen at the end is the last group, before it gave
            self.window = self.walk.window()
            if self._advice is not None:
                self._advice.take(count)
        return rate

    def advised(self, damage: Damage) -> float:
        """The count, a fraction, that `damage` of this ranking advises for the current group."""
        if self._advice is None:
            self._advice = Advice(damage, self.budget)
            for count in self.counts[: self.place]:
                self._advice.take(int(count))
        return self._advice.count()

    def advised_counts(self, damage: Damage | None, budget: Budget | None = None) -> Counts:
        """The counts (m,) of a whole round at which the errors sum to least; the uniform ones where none is known."""
        budget = budget or self.budget
        advice = None if damage is None else Advice(damage, budget)

        def choose(group: int, window: Window) -> int:
            if advice is None:
                return window.count(0.0)
            count = window.nearest(advice.count())
            advice.take(count)
            return count

        return budget.fill(choose)

    def towards(self, target: int) -> Budget:
        """The round's budget, to end at `target` MACs, or as near above as it can."""
        return replace(self.budget, target=target, must_meet=True)

    def uniform_counts(self, target: int) -> Counts:
        """The counts (m,) of the uniform schedule that ends at `target` MACs, or as near above as it can."""
        return self.towards(target).fill(lambda group, window: window.count(0.0))

    def feasible(self, counts: Mapping[str, int]) -> dict[str, int]:
        """What stepping through the round with `counts` by group executes, those visited already as they were."""

        def choose(group: int, window: Window) -> int:
            if group < self.visit:
                return int(self.counts[group])
            return window.nearest(counts.get(self.names[group], 0))

        return dict(zip(self.names, self.budget.fill(choose).tolist(), strict=True))

    def counted(self, counts: Mapping[str, int]) -> Counts:
        """Counts (m,) in the order of the visits."""
        return np.array([counts.get(name, 0) for name in self.names], dtype=np.int64)

    def named(self, counts: Counts) -> dict[str, int]:
        """Counts by group, without zeros."""
        return {name: int(count) for name, count in zip(self.names, counts, strict=True) if count}
