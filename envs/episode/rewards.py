"""Rewards made of named terms: what a round pays is their sum, and `info["reward_terms"]` shows each of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from rlprune.drops import score_drop
from rlprune.registry import Registry

Terms = dict[str, float]


@dataclass(frozen=True)
class Outcome:
    """What a round came to.

    Attributes:
        baseline: Score of the unpruned network on the control split.
        score: Score after this round and its recovery.
        tolerance: The drop (baseline - score) that is allowed.
        kept: Whether the round's network stays (False: it was rolled back).
        base_macs, macs_before, macs: MACs of the unpruned network, before the round, and after it.
        parameters_before, parameters: The same for parameters.
        latency_before, latency: Measured seconds a forward pass; None unless the reward asks for them.
        uniform_score: Score of the uniform schedule at equal MACs; None unless the reward asks for it.
        advised_score: Score of the schedule of least reconstruction error (the rule `error`), likewise.
    """

    baseline: float
    score: float
    tolerance: float
    kept: bool
    base_macs: int
    macs_before: int
    macs: int
    parameters_before: int
    parameters: int
    latency_before: float | None = None
    latency: float | None = None
    uniform_score: float | None = None
    advised_score: float | None = None

    @property
    def drop(self) -> float:
        """Baseline minus score; negative for a gain."""
        return score_drop(self.baseline, self.score)

    @property
    def excess(self) -> float:
        """By how much the drop exceeds the tolerance, else 0."""
        return max(0.0, self.drop - self.tolerance)


class Reward:
    """Pays for a round."""

    @property
    def needs(self) -> frozenset[str]:
        """What has to be measured for it: any of `"latency"`, `"uniform"`, `"advised"`."""
        return frozenset()

    @property
    def deterministic(self) -> bool:
        """Whether equal plans always pay the same."""
        return "latency" not in self.needs

    def terms(self, outcome: Outcome) -> Terms:
        """The named terms; their sum is the reward."""
        raise NotImplementedError


REWARDS: Registry[Callable[[], Reward]] = Registry("reward")


def make_reward(name: str) -> Reward:
    """The reward called `name`; raises UserError for an unknown name.

    >>> sorted(make_reward("tolerance").terms(Outcome(0.98, 0.95, 0.01, False, 100, 90, 80, 50, 45)))
    ['excess', 'macs']
    """
    return REWARDS.get(name)()


def list_rewards() -> list[str]:
    """Names of all rewards."""
    return REWARDS.names()


@dataclass(frozen=True)
class LogGain(Reward):
    """Gain in the log of a cost, minus the excess of the drop over the tolerance.

    Over an episode the gains add up to the log of the compression. A round that is rolled back gains nothing.

    Attributes:
        cost: `macs`, `parameters`, or `latency`, which is measured and so never twice the same.
        penalty: Reward lost per unit of excess; at 10, a point too much costs what 10 % of the MACs bring.
    """

    cost: str = "macs"
    penalty: float = 10.0

    @property
    def needs(self) -> frozenset[str]:
        """The latency, where that is what it costs."""
        return frozenset({self.cost} & {"latency"})

    def terms(self, outcome: Outcome) -> Terms:
        """The gain, by the name of the cost, and `excess`."""
        before, now = getattr(outcome, f"{self.cost}_before"), getattr(outcome, self.cost)
        gain = math.log(before / now) if outcome.kept else 0.0
        return {self.cost: gain, "excess": -self.penalty * outcome.excess}


REWARDS.register("tolerance")(LogGain)
REWARDS.register("params")(partial(LogGain, "parameters"))
REWARDS.register("latency")(partial(LogGain, "latency"))


@REWARDS.register("accuracy")
class AccuracyReward(Reward):
    """The score itself, for episodes whose MACs the budget fixes (AMC: He et al. 2018, section 3.3)."""

    def terms(self, outcome: Outcome) -> Terms:
        """`score`."""
        return {"score": outcome.score}


@REWARDS.register("accuracy_macs")
class AccuracyMacsReward(Reward):
    """-error * log(MACs): AMC's reward where no budget is set (He et al. 2018, eq. 4)."""

    def terms(self, outcome: Outcome) -> Terms:
        """`error_log_macs`."""
        return {"error_log_macs": -(1.0 - outcome.score) * math.log(max(outcome.macs, 2))}


@dataclass(frozen=True)
class GainReward(Reward):
    """Score above that of a schedule known without training, in units of that schedule's own drop.

    The scale of the score changes by far more between networks and budgets than between the schedules of one of them;
    this takes the former out, so that one agent can learn from many. Zero is the schedule's score, one is no drop.

    Attributes:
        over: The schedule: `uniform`, or `advised`, that of least reconstruction error (the rule `error`).
        floor: Least drop to divide by. At mild budgets, where all schedules score alike, the noise of the control
            split would else be what is learned.
    """

    over: str = "uniform"
    floor: float = 0.15

    @property
    def needs(self) -> frozenset[str]:
        """The schedule's score."""
        return frozenset({self.over})

    def terms(self, outcome: Outcome) -> Terms:
        """`gain`."""
        reference = outcome.uniform_score if self.over == "uniform" else outcome.advised_score
        assert reference is not None
        return {"gain": (outcome.score - reference) / max(self.floor, outcome.baseline - reference)}


REWARDS.register("gain")(GainReward)
REWARDS.register("gain_over_error")(partial(GainReward, "advised"))
