"""The state machine of an episode: rounds, the tolerance, rolling back, and what is removed."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from rlprune.criteria import plan_from_counts
from rlprune.envs.episode.advising import Advisor
from rlprune.envs.episode.damage import Damage, Ranking
from rlprune.envs.episode.rewards import Outcome, Terms, make_reward
from rlprune.envs.episode.rounds import Round, Scope
from rlprune.envs.episode.tolerance import Tolerance
from rlprune.envs.episode.transitions import NetworkState, Repairs, Transitions, combine
from rlprune.envs.episode.window import Counts
from rlprune.envs.rules import Rules
from rlprune.errors import UserError
from rlprune.seeding import derive
from rlprune.tasks import Score
from rlprune.training.settings import TrainSettings

Penalty = Callable[[nn.Module], Tensor]
TRUNCATED = "rounds"
PATIENCE = 3  # rounds that may train in a row without removing anything


class EpisodeState:
    """Where the episode of an environment stands, and what ends it; knows nothing of Gymnasium.

    Attributes:
        scope: The groups that rounds may visit.
        state: The network at the start of the current round.
        score: Its control score.
        keeper: The tolerance, and the last network inside it.
        ranking: The ranking of the current network's filters.
        current: The current round.
        round: How many rounds are done.
        history: A record of every round done.
        budget: This episode's goal, a fraction of what is counted, or None.
        goal: The share of that at which this round alone ends, or None.
        cap: The largest rate allowed now.
        stopped: Why the episode has ended ("tolerance", "budget", "nothing left", "nothing removed", "one round", or
            "rounds" where it was truncated), or None while it goes on.
        idle: How many rounds in a row removed nothing.
        failed: What was removed in vain, as keys, since a network was accepted.
    """

    current: Round

    def __init__(self, transitions: Transitions, rules: Rules) -> None:
        self.transitions, self.rules = transitions, rules
        self.scope = Scope.of(transitions.problem.groups, rules.skip, rules.counted)
        self._scopes = {rules.counted: self.scope}
        nothing = np.zeros_like(self.scope.sizes)
        self.base_macs = self.scope.macs(nothing)
        self.base = self.state = transitions.base()
        self._first: dict[str, Round] = {}  # by what is counted, the first that was ranked on the unpruned network
        self._base_ranking = Ranking({})
        self.reward = make_reward(rules.reward)
        self._measured: list[NetworkState] = []
        self._advisor = Advisor(transitions, self.scope.names, rules.seed)
        self.scope.check(rules.max_rate, rules.skip)
        self.restart(rules)

    def damage(self, kind: str = "") -> Damage | None:
        """What this round's groups cost, by the rules' advice or `kind`, found when asked for; None if it cannot be."""
        return self._advisor.damage(kind or self.rules.advice, self.state, self.ranking, self.current)

    @property
    def drop(self) -> float:
        """Baseline minus the current score."""
        return self.keeper.drop(self.score)

    @property
    def target(self) -> int | None:
        """The cost at which the episode ends, or None."""
        return None if self.budget is None else int(self.budget * self.base_cost)

    @property
    def rounds_left(self) -> float | None:
        """Rounds still expected: what the limit leaves, or the budget at the pace so far; None if nobody can know."""
        left = None if self.rules.rounds is None else float(self.rules.rounds - self.round)
        now = self.current.cost
        if self.target and self.round and now < self.base_cost:
            pace = math.log(self.base_cost / now) / self.round
            still = max(0.0, math.log(now / self.target)) / pace
            left = still if left is None else min(left, still)
        return left

    def restart(self, rules: Rules) -> None:
        """Go back to the unpruned network, with the goal of `rules`."""
        baseline = self.transitions.problem.baseline
        if rules.counted not in self._scopes:
            self._scopes[rules.counted] = replace(self.scope, counted=rules.counted, _grounds={})
        self.scope = self._scopes[rules.counted]
        self.base_cost = self.scope.cost(np.zeros_like(self.scope.sizes))
        self.keeper = Tolerance(baseline, rules.tolerance, self.base, rules.confidence)
        self.budget: float | None = rules.budget
        self.goal: float | None = None
        self.state, self.score = self.base, baseline
        self.round = self.idle = 0
        self.history: list[dict[str, Any]] = []
        self.failed: list[str] = []
        self.cap = rules.max_rate
        self.stopped: str | None = None
        self._begin_round()

    def resume(
        self,
        current: tuple[NetworkState, Score],
        accepted: tuple[NetworkState, Score],
        goal: float | None,
        stopped: str | None,
    ) -> None:
        """Stand at the start of a round with these networks and scores, as `saving` found them."""
        self.state, self.score = current
        self.keeper.accept(*accepted)
        self.goal, self.stopped = goal, stopped
        if stopped is None:
            self._begin_round()

    def set_goal(self, tolerance: float | None, budget: float | None, max_rate: float | None) -> None:
        """Change what is given, before a round's first visit; an episode of many rounds that was over goes on."""
        self.at_start("the goal can change")
        if self.rules.one_shot and self.stopped is not None:
            raise UserError("this episode had its one round; call reset(options=...) with another goal")
        tolerance = self.keeper.allowed if tolerance is None else tolerance
        budget, cap = self.budget if budget is None else budget, self.cap if max_rate is None else max_rate
        replace(self.rules, tolerance=tolerance, budget=budget, max_rate=cap)  # checks them
        before = self.keeper.allowed, self.budget, self.cap
        try:
            self.keeper.allowed, self.budget, self.cap = tolerance, budget, cap
            self.renew()
        except UserError:
            self.keeper.allowed, self.budget, self.cap = before
            raise

    def aim(self, share: float | None) -> None:
        """End this round, and it alone, at `share` of the unpruned MACs; None takes that back."""
        self.at_start("a round can be given an aim")
        if share is not None and not 0.0 < share <= 1.0:
            raise UserError(f"aim is {share}; it must lie in (0, 1], the fraction of the unpruned MACs to end at")
        if self.stopped is not None:
            raise UserError("this episode is over; call set_goal() to go on, or reset()")
        before, self.goal = self.goal, share
        try:
            self.renew()
        except UserError:
            self.goal = before
            raise

    def at_start(self, what: str) -> None:
        """Raise UserError in the middle of a round; `what` is what can be done at its start."""
        if self.stopped is None and self.current.visit:
            raise UserError(f"{self.current.visit} groups of this round are visited; {what} only before the first")

    def renew(self) -> None:
        """The current round anew, by other rules perhaps; where there was none any more, the next one."""
        if self.stopped is None:
            before, self.current = self.current, self._next_round()
            self.current.trained = before.trained
            if self.current.visited == before.visited:
                self.current.rank_as(before)
            else:
                self.current.rank(self.state.network.groups, self.ranking.scores)
        elif self._begin_round():
            self.stopped, self.idle, self.failed = None, 0, []
        else:
            self.stopped = "nothing left"

    def _next_round(self) -> Round:
        target, must_meet = self.target, self.rules.one_shot
        if self.goal is not None:
            target, must_meet = int(self.goal * self.base_cost), True
        upcoming = Round(self.scope, self.scope.removed(self.state.plan), self.cap, target, must_meet)
        if upcoming.visited:
            upcoming.budget.check(self.base_cost, "budget" if self.goal is None else "aim", self.scope.counted)
        return upcoming

    def _begin_round(self) -> bool:
        """Set up a round; False, and nothing is changed, if no group can give a filter."""
        upcoming = self._next_round()
        if upcoming.visited:
            self.current = upcoming
            self.rank()
        return bool(upcoming.visited)

    def rank(self) -> None:
        """Rank the filters of the current network."""
        first, at_base = self._first.get(self.scope.counted), self.state is self.base
        if at_base and self._first:
            self.ranking = self._base_ranking
            if first is not None and first.visited == self.current.visited:
                self.current.rank_as(first)
                return
        else:
            seed = derive(self.rules.seed, "ranking")
            self.ranking = Ranking(self.transitions.scores(self.rules.criterion, self.state, seed))
        self.current.rank(self.state.network.groups, self.ranking.scores)
        if at_base and first is None:
            self._first[self.scope.counted], self._base_ranking = self.current, self.ranking
        if not at_base:
            self._measured.append(self.state)
        for state in [state for state in self._measured if state not in (self.state, self.keeper.accepted)]:
            self.transitions.leave(state)
            self._measured.remove(state)

    def rank_by(self, scores: Mapping[str, NDArray[np.float64]]) -> None:
        """Rank the filters of the current network by given scores, for this round."""
        self.at_start("rank")
        if self.current in self._first.values():
            self._first = {}  # that ranking was kept for the next episode, and is not the criterion's any more
        self.ranking = Ranking({**self.ranking.scores, **scores})
        self.current.rank(self.state.network.groups, self.ranking.scores)

    def train(
        self,
        settings: TrainSettings,
        penalties: Sequence[Penalty],
        tag: str,
        on_step: Callable[[float], None] | None = None,
    ) -> None:
        """Train a copy of the current network, go on with it, and score and rank it."""
        self.at_start("train")
        seed = derive(self.rules.seed, tag, self.round)
        self.go_on_with(self.transitions.trained(self.state, settings, penalties, seed, on_step))

    def go_on_with(self, state: NetworkState) -> None:
        """Put another network of the same widths in the place of the current one, and score and rank it."""
        self.at_start("change the network")
        self.state, self.score = state, self.transitions.score(state)
        self.current.trained = True
        self.rank()

    def end_round(self) -> Terms:
        """Prune, recover, score; then roll back or go on. Sets `stopped` and returns the reward's terms."""
        current, keeper = self.current, self.keeper
        idle = not current.counts.any()
        after = self.state if idle else self.next(current.named(current.counts))
        if not idle:
            self.score = self.transitions.score(after)
        within = keeper.inside(self.score)
        terms = self.terms(after, self.score, current.executed())
        self.round += 1
        self.idle = self.idle + 1 if idle else 0
        self._record(terms, within)
        removal = combine(self.state.key, current.named(current.counts), self.transitions.recovery.key)
        if within and (not idle or self.score.value >= keeper.score.value):
            keeper.accept(after, self.score)
            self.failed = []
        self.state, self.goal = after, None
        self.stopped = self._verdict(within, removal)
        if self.stopped is None and not self._begin_round():
            self.stopped = "nothing left"
        if self.stopped is None and self.rules.rounds is not None and self.round >= self.rules.rounds:
            self.stopped = TRUNCATED
        return terms

    def _verdict(self, within: bool, removal: str) -> str | None:
        """Why the episode ends with this round, or None; rolls back where the tolerance was left."""
        rules = self.rules
        if rules.one_shot:
            return "one round"
        if not within:
            self.state, self.score = self.keeper.accepted, self.keeper.score
            if rules.on_violation == "stop" or removal in self.failed:
                return "tolerance"
            if rules.on_violation == "retry":
                self.cap /= 2
                return None
            self.failed.append(removal)
        elif self.target is not None and self.current.cost <= self.target:
            return "budget"
        return "nothing removed" if self.idle > (PATIENCE if self.current.trained else 0) else None

    def next(self, removed: Mapping[str, int], recovery: Repairs | None = None) -> NetworkState:
        """The state after the `removed` lowest filters by group went from the current network."""
        plan = plan_from_counts(self.state.network.groups, self.ranking.scores, removed)
        return self.transitions.after(self.state, plan, derive(self.rules.seed, "recovery", self.round), recovery)

    def preview(self, counts: Counts, recovery: Repairs | None) -> tuple[Score, Terms]:
        """The score and the reward's terms that this round would have if its groups lost `counts`."""
        after = self.next(self.current.named(counts), recovery) if counts.any() else self.state
        score = self.transitions.score(after) if counts.any() else self.score
        return score, self.terms(after, score, self.current.executed(counts))

    def terms(self, after: NetworkState, score: Score, executed: Counts) -> Terms:
        """The reward's terms where this round ends with a network, its score, and so many filters gone."""
        keeper, current = self.keeper, self.current
        outcome = Outcome(
            baseline=keeper.baseline.value,
            score=score.value,
            tolerance=keeper.allowed,
            kept=self.rules.one_shot or keeper.inside(score),
            base_macs=self.base_macs,
            macs_before=current.macs_before,
            macs=self.scope.macs(executed),
            parameters_before=current.parameters_before,
            parameters=self.scope.parameters(executed),
        )
        target = self.target if self.target is not None else self.scope.cost(executed)
        if "uniform" in self.reward.needs:
            outcome = replace(outcome, uniform_score=self._score_of(current.uniform_counts(target)))
        if "advised" in self.reward.needs:
            advised = current.advised_counts(self.damage("error"), current.towards(target))
            outcome = replace(outcome, advised_score=self._score_of(advised))
        if "latency" in self.reward.needs:
            before, now = self.transitions.latency(self.state), self.transitions.latency(after)
            outcome = replace(outcome, latency_before=before, latency=now)
        return self.reward.terms(outcome)

    def _score_of(self, counts: Counts) -> float:
        """The score that the current network would have without its lowest filters, `counts` (m,) of them."""
        return self.transitions.score(self.next(self.current.named(counts))).value

    def _record(self, terms: Terms, accepted: bool) -> None:
        current = self.current
        self.history.append(
            {
                "round": self.round,
                "rates": dict(zip(current.names, current.rates, strict=True)),
                "removed": dict(zip(current.names, current.counts.tolist(), strict=True)),
                "macs": current.macs,
                "parameters": current.parameters,
                "score": self.score.value,
                "drop": self.drop,
                "accepted": accepted,
                "reward_terms": dict(terms),
            }
        )

    def close(self) -> None:
        """Free what was measured on the networks of this episode, and let go of files."""
        for state in self._measured:
            self.transitions.leave(state)
        self._measured.clear()
        self.transitions.close()
