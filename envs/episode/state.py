"""The state machine of an episode: rounds, the tolerance, rolling back, and the books."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from rlprune.criteria import plan_from_counts
from rlprune.envs.episode import saving
from rlprune.envs.episode.budget import Counts
from rlprune.envs.episode.damage import Curves, Damage
from rlprune.envs.episode.rewards import Outcome, Terms, make_reward
from rlprune.envs.episode.rounds import Round, Scope
from rlprune.envs.episode.transitions import NetworkState, Transitions
from rlprune.envs.observations import Progress
from rlprune.envs.rules import EnvSettings
from rlprune.errors import UserError
from rlprune.network import Network
from rlprune.recovery import TrainSettings, train
from rlprune.seeding import derive
from rlprune.tasks import Score, score_drop

Penalty = Callable[[nn.Module], Tensor]
TRUNCATED = "rounds"
PATIENCE = 3  # rounds that may train in a row without removing anything


@dataclass(eq=False)
class Ranking:
    """The score of every filter, by group, and, once somebody asked, what the lowest cost their readers."""

    scores: dict[str, NDArray[np.float64]]
    curves: Curves | None = None
    damages: dict[tuple[tuple[str, ...], bytes], Damage | None] = field(default_factory=dict)

    def damage(self, current: Round) -> Damage | None:
        """The damage of a round of this ranking's network, which differs by what may go; kept for later episodes."""
        key = (tuple(current.names), current.budget.most.tobytes())
        if key not in self.damages:
            assert self.curves is not None
            self.damages[key] = Damage.of(current.names, self.curves, current.budget, current.shares)
        return self.damages[key]


class EpisodeState:
    """Where the episode of an environment stands, and what ends it; knows nothing of Gymnasium.

    Attributes:
        scope: The groups that rounds may visit.
        state: The network at the start of the current round.
        accepted: The last network whose drop was inside the tolerance.
        score, accepted_score: Their control scores.
        ranking: The ranking of the current network's filters.
        current: The current round.
        round: How many rounds are done.
        history: A record of every round done.
        tolerance, budget: This episode's goal.
        cap: The largest rate allowed now.
        stopped: Why the episode has ended ("tolerance", "budget", "nothing left", "nothing removed", "one round", or
            "rounds" where it was truncated), or None while it goes on.
    """

    def __init__(self, transitions: Transitions, settings: EnvSettings) -> None:
        self.transitions = transitions
        self.settings = settings
        self.scope = Scope.of(transitions.problem.groups, settings.skip)
        nothing = np.zeros_like(self.scope.sizes)
        self.base_macs = self.scope.macs(nothing)
        self.base = transitions.base()
        self._first: Round | None = None  # the first round that was ranked on the unpruned network, and its ranking
        self._base_ranking = Ranking({})
        self._reward = make_reward(settings.reward)
        if not self.scope.options(settings.max_rate, nothing):
            others = f" that is not {' or '.join(settings.skip)}" if settings.skip else ""
            raise UserError(
                f"max_rate {settings.max_rate} removes no filter from any group{others}; "
                f"the widest has {max(self.scope.sizes, default=0)} filters: raise max_rate or skip less"
            )
        self.restart(settings)

    @property
    def baseline(self) -> Score:
        """The unpruned network's control score."""
        return self.transitions.problem.baseline

    @property
    def scores(self) -> dict[str, NDArray[np.float64]]:
        """The score of every filter of the current network, by group."""
        return self.ranking.scores

    @property
    def damage(self) -> Damage | None:
        """What this round's groups cost their readers, worked out when first asked for; None if it cannot be known."""
        if self.ranking.curves is None:
            self.ranking.curves = self.transitions.error_curves(self.state, self.scope.names, self.scores)
        return self.ranking.damage(self.current)

    @property
    def drop(self) -> float:
        """Baseline minus the current score."""
        return score_drop(self.baseline.value, self.score.value)

    @property
    def network(self) -> Network:
        """The network at the start of the current round."""
        return self.state.network

    @property
    def rounds_left(self) -> float | None:
        """Rounds still expected: what the limit leaves, or the budget at the pace so far; None if nobody can know."""
        left = None if self.settings.rounds is None else float(self.settings.rounds - self.round)
        now = self.current.macs
        if self._target and self.round and now < self.base_macs:
            pace = math.log(self.base_macs / now) / self.round
            still = max(0.0, math.log(now / self._target)) / pace
            left = still if left is None else min(left, still)
        return left

    def restart(self, rules: EnvSettings) -> None:
        """Go back to the unpruned network, with the budget and tolerance of `rules`."""
        self.tolerance = rules.tolerance
        self.budget = rules.budget
        self._target = None if rules.budget is None else int(rules.budget * self.base_macs)
        self.state = self.accepted = self.base
        self.score = self.accepted_score = self.baseline
        self.round = 0
        self.history: list[dict[str, Any]] = []
        self._drops: list[float] = []
        self.cap = rules.max_rate
        self.stopped: str | None = None
        self._idle = 0
        self._begin_round()

    def _begin_round(self) -> bool:
        """Set up a round; False, and nothing is changed, if no group can give a filter."""
        removed = self.scope.removed(self.state.plan)
        upcoming = Round(self.scope, removed, self.cap, self._target, must_meet=self.settings.one_shot)
        if not upcoming.visited:
            return False
        upcoming.budget.check(self.base_macs)
        self.current = upcoming
        self.rank()
        return True

    def rank(self) -> None:
        """Rank the filters of the current network."""
        first, at_base = self._first, self.state is self.base
        if at_base and first is not None:
            self.ranking = self._base_ranking
            if first.visited == self.current.visited:
                self.current.rank_as(first)
                return
        else:
            seed = derive(self.settings.seed, "ranking")
            scores = self.transitions.problem.scores(self.settings.criterion, self.network, seed=seed)
            self.ranking = Ranking(scores)
        self.current.rank(self.state.network.groups, self.scores)
        if at_base and first is None:
            self._first, self._base_ranking = self.current, self.ranking

    def rank_by(self, scores: Mapping[str, NDArray[np.float64]]) -> None:
        """Rank the filters of the current network by given scores, for this round."""
        if self.current.visit:
            raise UserError(f"{self.current.visit} groups of this round are visited; rank only before the first")
        if self.current is self._first:
            self._first = None  # that ranking was kept for the next episode, and is not the criterion's any more
        self.ranking = Ranking({**self.scores, **scores})
        self.current.rank(self.state.network.groups, self.scores)

    def train(
        self,
        settings: TrainSettings,
        penalties: Sequence[Penalty],
        tag: str,
        on_step: Callable[[float], None] | None = None,
    ) -> None:
        """Train a copy of the current network, go on with it, and score and rank it."""
        if self.current.visit:
            raise UserError(f"{self.current.visit} groups of this round are visited; train only before the first")
        network, problem = self.network.copy(), self.transitions.problem
        train(
            network.model,
            problem.task,
            problem.data.train,
            settings,
            seed=derive(self.settings.seed, tag, self.round),
            penalties=penalties,
            on_step=on_step,
            device=str(problem.device),
            ledger=problem.ledger,
        )
        self.state = NetworkState.of(network, problem.data.fingerprint)
        self.score = self.transitions.score(self.state)
        self.current.trained = True
        self.rank()

    def end_round(self) -> Terms:
        """Prune, recover, score; then roll back or go on. Sets `stopped` and returns the reward's terms."""
        current, rules = self.current, self.settings
        idle = not current.counts.any()
        after = self.state if idle else self.next(current.named(current.counts))
        if not idle:
            self.score = self.transitions.score(after)
        within = self.drop <= self.tolerance
        terms = self._reward.terms(self._outcome(after, self.score, current.executed))
        self.round += 1
        self._idle = self._idle + 1 if idle else 0
        self._drops.append(self.drop)
        self._record(terms, within)
        if within and (not idle or self.score.value >= self.accepted_score.value):
            self.accepted, self.accepted_score = after, self.score
        self.state = after
        if rules.one_shot:
            self.stopped = "one round"
        elif not within:
            self.cap /= 2
            self.state, self.score = self.accepted, self.accepted_score
            self.stopped = "tolerance" if rules.on_violation == "stop" else None
        elif self._target is not None and current.macs <= self._target:
            self.stopped = "budget"
        elif self._idle > (PATIENCE if current.trained else 0):
            self.stopped = "nothing removed"
        if self.stopped is None and not self._begin_round():
            self.stopped = "nothing left"
        if self.stopped is None and rules.rounds is not None and self.round >= rules.rounds:
            self.stopped = TRUNCATED
        return terms

    def next(self, removed: Mapping[str, int]) -> NetworkState:
        """The state after the `removed` lowest filters by group went from the current network."""
        plan = plan_from_counts(self.state.network.groups, self.scores, removed)
        return self.transitions.after(self.state, plan, derive(self.settings.seed, "recovery", self.round))

    def preview(self, counts: Counts) -> tuple[Score, Terms]:
        """The score and the reward's terms that this round would have if its groups lost `counts`."""
        after = self.next(self.current.named(counts)) if counts.any() else self.state
        score = self.transitions.score(after) if counts.any() else self.score
        executed = self.current.removed.copy()
        executed[self.current.visited] += counts
        return score, self._reward.terms(self._outcome(after, score, executed))

    def _outcome(self, after: NetworkState, score: Score, executed: Counts) -> Outcome:
        outcome = Outcome(
            baseline=self.baseline.value,
            score=score.value,
            tolerance=self.tolerance,
            kept=self.settings.one_shot or score_drop(self.baseline.value, score.value) <= self.tolerance,
            base_macs=self.base_macs,
            macs_before=self.current.macs_before,
            macs=self.scope.macs(executed),
            parameters_before=self.current.parameters_before,
            parameters=self.scope.parameters(executed),
        )
        if "uniform" in self._reward.needs:
            target = self._target if self._target is not None else outcome.macs
            uniform = self.next(self.current.named(self.current.uniform_counts(target)))
            outcome = replace(outcome, uniform_score=self.transitions.score(uniform).value)
        if "latency" in self._reward.needs:
            before, now = self.transitions.latency(self.state), self.transitions.latency(after)
            outcome = replace(outcome, latency_before=before, latency=now)
        return outcome

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

    def info(self, name: str, rate: float, terms: Terms) -> dict[str, Any]:
        """What is told at every step; at the end of a round of the network that was made, rolled back or not."""
        if self.history and self.current.visit in (0, len(self.current.visited)):
            told = {key: self.history[-1][key] for key in ("macs", "parameters", "score", "drop")}
        else:
            told = {
                "macs": self.current.macs,
                "parameters": self.current.parameters,
                "score": self.score.value,
                "drop": self.drop,
            }
        return {"group": name, "rate": rate, "round": self.round, **told, "reward_terms": dict(terms)}

    def final_info(self) -> dict[str, Any]:
        """The plan of the network that is handed back (with `one_shot`: of the one that was made) and how it fared."""
        state, score = (self.state, self.score) if self.settings.one_shot else (self.accepted, self.accepted_score)
        removed = self.scope.removed(state.plan)
        macs, drop = self.scope.macs(removed), score_drop(self.baseline.value, score.value)
        met = bool(removed.any()) if self._target is None else macs <= self._target
        return {
            "stopped": self.stopped,
            "plan": state.plan.to_json(),
            "is_success": bool(met and drop <= self.tolerance),
            "final_score": score.value,
            "final_drop": drop,
            "final_macs": macs,
            "final_macs_share": macs / self.base_macs,
            "final_parameters": self.scope.parameters(removed),
        }

    def progress(self) -> Progress:
        """What the observation needs beside the group."""
        current, share = self.current, 1.0 / self.base_macs
        damage, place = self.damage if self.settings.sees_errors else None, current.place
        now, begin = current.macs, current.macs_before
        most = current.budget.most.copy()
        most[: current.visit] = current.counts[: current.visit]
        return Progress(
            window=current.window,
            mass=current.mass[place],
            removed=1.0 - now * share,
            removed_round=(begin - now) * share,
            reachable=(now - current.budget.cost(current.budget.before + most)) * share,
            to_remove=0.0 if self._target is None else max(0.0, (now - self._target) * share),
            rates=current.rates,
            departures=current.departures,
            drops=self._drops,
            score=self.score.value,
            baseline=self.baseline.value,
            tolerance=self.tolerance if self.settings.shown_tolerance is None else self.settings.shown_tolerance,
            round=self.round,
            rounds=self.settings.rounds,
            cap=self.cap,
            budget=self.budget,
            curve=None if damage is None or not damage.known[place] else damage.curves[place],
            advised=0.0 if damage is None else damage.advised(current.budget, place, current.counts),
        )

    def state_dict(self) -> dict[str, Any]:
        """Everything that an environment made with the same arguments needs to go on from here, bit-equal.

        Tensors and plain values only. Raises UserError in the middle of a round.
        """
        if self.stopped is None and (self.current.visit or self.current.trained):
            raise UserError(
                "the state can be saved only at the start of a round, before anything is visited or trained"
            )
        same = self.accepted is self.state
        return {
            "rules": self.settings.to_json(),
            "base": self.base.key,
            "goal": {"budget": self.budget, "tolerance": self.tolerance},
            "stopped": self.stopped,
            "round": self.round,
            "idle": self._idle,
            "cap": self.cap,
            "drops": list(self._drops),
            "history": list(self.history),
            "current": saving.pack(self.state, self.score),
            "accepted": None if same else saving.pack(self.accepted, self.accepted_score),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict`'s result.

        Raises:
            UserError: If the state is of another environment.
        """
        saving.check(state, self.settings, self.base)
        self.restart(replace(self.settings, **state["goal"]))
        self.round, self.cap = int(state["round"]), float(state["cap"])
        self._drops, self.history = list(state["drops"]), list(state["history"])
        self.state, self.score = saving.unpack(state["current"], self.base, self.transitions.problem)
        self.accepted, self.accepted_score = self.state, self.score
        if state["accepted"] is not None:
            self.accepted, self.accepted_score = saving.unpack(state["accepted"], self.base, self.transitions.problem)
        self.stopped, self._idle = state["stopped"], int(state["idle"])
        if self.stopped is None:
            self._begin_round()
