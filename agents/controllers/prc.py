"""The pruning-rate controller (PRC) with adaptive filter pruning (AFP): a min–max game over the filters.

Singh, Kadi, Verma, Namboodiri, *Acceleration of deep convolutional neural networks using adaptive filter pruning*,
2020 (and *Play and Prune*, 2019). AFP minimises the number of filters, PRC maximises the accuracy and sets the
pressure; the user gives an error tolerance, not a rate. The game, the error tolerance and the linear pressure are the
paper's; constants and steps are reconstructed, each a parameter. Ours: the threshold is found against what training is
known to heal, the step is a trust region, and schedules near the rule's are tried before one is played.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np

from rlprune.agents.controllers import rounds
from rlprune.agents.controllers.base import RoundRule
from rlprune.agents.controllers.law import Aim, Law, Standing
from rlprune.agents.controllers.seeking import Healing, TrustRegion
from rlprune.errors import UserError, check_count, check_number, unknown_name
from rlprune.training.settings import TrainSettings

if TYPE_CHECKING:
    import gymnasium

RATES = ("best", "error", "response", "threshold", "uniform")
INSIDE = " inside"  # ends the name of a kind of rates that leaves residual streams whole


def pressure(accuracy: float, baseline: float, tolerance: float) -> float:
    """T / ε with T = max(a − (E − ε), 0): 1 at the baseline, falling linearly to 0 at the tolerance's edge.

    Never negative; above 1 where the network got better than the baseline. A tolerance of 0 has no edge to approach:
    the pressure is 1 at or above the baseline and 0 below it.
    """
    if tolerance == 0:
        return float(accuracy >= baseline)
    return max(accuracy - (baseline - tolerance), 0.0) / tolerance


@dataclass
class PRC(RoundRule):
    """The min–max pruning-rate controller.

    Attributes:
        alpha: Share of each layer's filters that is pressed before a round (the set U), in (0, 1]; where the paper's
            text is played, also the most that a round may prune.
        penalty: λ, weight of the L1 norm of the filters in U at full pressure.
        delta: δ_w, scale of the pruning threshold.
        rates: Which filters go to reach a round's aim: `threshold`, one W_γ over the norms of all layers; `error`, the
            counts at which the reconstruction errors of all layers sum to least; `response`, those at which the changes
            of the network's outputs do; `uniform`; or `best`, whichever of the others, or of the means of two, with
            residual streams or without, leaves the least loss after the cheap recovery.
        tries: Schedules tried around the one that those give; the one of least control loss is played.
        step: Trust region: logarithm of the factor by which the first removal may shrink the MACs.
        healing: Share of an immediate drop that long training is expected to leave, until seen.
        rebisect: Paper's text: find the threshold anew each round. False keeps W_0 of the first and scales it,
            W_γ = δ_w·(T/ε)·W_0.
        probe_recovery: Paper's text: repairs before the drop of a trial removal is measured; `none` takes it as it is.
        patience: Paper's text: rounds of training in a row after which nothing could be removed, before it gives up.
        per_weight: Compare filters of different layers by mean |w| rather than by the sum.
    """

    alpha: float = 0.1
    penalty: float = 5e-4
    delta: float = 1.0
    rates: str = "best"
    tries: int = 24
    step: float = 1.0
    healing: float = 0.08
    rebisect: bool = True
    probe_recovery: str = "lsq+bn-delta"
    patience: int = 2
    per_weight: bool = True

    remembered = ("threshold", "_idle", "_kind", "tried")

    def __post_init__(self) -> None:
        if not 0 < self.alpha <= 1:
            raise UserError(f"alpha is {self.alpha}; it must lie in (0, 1]")
        for name in ("penalty", "tries"):
            check_number(name, getattr(self, name))
        for name in ("delta", "step", "healing"):
            check_number(name, getattr(self, name), above_zero=True)
        check_count("patience", self.patience)
        if self.rates not in RATES:
            raise unknown_name("rates", self.rates, RATES)
        self._forget()

    def _forget(self) -> None:
        self.threshold: float | None = None  # W_0, once it is known
        self._idle, self._back = 0, False  # rounds without a removal; whether this one grows back
        self._kind = "threshold+uniform" if self.rates == "best" else self.rates  # of rates, in the first round
        self._region = TrustRegion(self.step, healing=Healing(self.healing))
        self.tried: list[dict[str, Any]] = []  # of every round and kind of rates

    def bind(self, env: gymnasium.Env[Any, Any]) -> None:
        """Play in this environment, from its first round; raises UserError for a `probe_recovery` that is none."""
        super().bind(env)
        self._forget()
        self._probe()

    # The game: what is left of the tolerance, and how far it reaches -------------------------------------------

    def law(self) -> Law:
        """Its own."""
        return self

    def aim(self, now: Standing) -> Aim | None:
        """As far as the tolerance reaches where training leaves the share h of a drop: an immediate drop of ε / h.

        Kinds of rates are compared where the last round's kind gets to; a better one may get further.
        """
        found, kind = self._region.aim(now, self.delta), self._kind
        self._back = found is not None and found.bound_by == "setback"
        if found is None or found.bound_by in ("rest", "setback") or self.rates != "best" or self._env is None:
            return found
        self.env.aim(found.share)
        self._kind = self._best()
        return found if self._kind == kind else self._region.aim(now, self.delta)

    # The pressure: information moves out of the filters that are about to go ------------------------------------

    def _pressure(self) -> float:
        return pressure(self.env.score.value, self.env.baseline.value, self.env.tolerance)

    def _press(self) -> None:
        """AFP's training: the loss, plus λ_A times the L1 norm of the filters in U, with λ_A = λ·T/ε."""
        from rlprune.training.penalties import FilterL1

        press = self.press or TrainSettings(epochs=1.0, orthogonality=1e-4)
        if press.epochs > 0 and self.penalty > 0 and self.env.problem.data.train is not None:
            weight = self.penalty * self._pressure()
            self.env.train(press, [FilterL1(self.env.network.groups, self._weakest(), weight)], tag="afp")

    def _weakest(self) -> dict[str, tuple[int, ...]]:
        """U: the α share of lowest score in every group; at least one filter where one may go at all."""
        from rlprune.criteria import lowest

        env = self.env
        counts = {group: min(max(int(self.alpha * group.size), 1), group.max_removable) for group in env.prunable}
        return {group.name: lowest(env.scores[group.name], count) for group, count in counts.items()}

    # The threshold: which filters go ----------------------------------------------------------------------------

    def plan(self) -> Mapping[str, int]:
        """What the aim asks for; without one, the paper's text."""
        if not rounds.aimed(self.env):
            return self._paper()
        if self._back:
            return rounds.scaled_back(self.env)
        return rounds.climb(self.env, self.schedule(), self._probe(), self.tries)

    def schedule(self) -> dict[str, int]:
        """The counts that meet the round's aim."""
        return self._candidates(self._kind)[self._kind]

    def _best(self) -> str:
        """The kind of rates that leaves the least loss at the round's aim."""
        tried = rounds.compared(self.env, self._candidates(), self._probe(), self.on_trial)
        self.tried += tried
        return str(min(tried, key=lambda line: line["loss"])["by"])

    def _candidates(self, only: str = "") -> dict[str, dict[str, int]]:
        """Counts that meet the aim by kind of rates, or of one kind alone."""
        env, names = self.env, [group.name for group in self.env.prunable]
        every = "threshold+error+uniform" if self.rates == "best" else self.rates
        wanted = (only.removesuffix(INSIDE) or every).split("+")
        sizes, rates = env.budget.sizes, dict[str, Any]()
        if "threshold" in wanted:
            order = rounds.global_order(env, {name: self._norms(name) for name in names})
            counts = rounds.counts_of(order[: rounds.first_to_meet(env, order)])
            rates["threshold"] = np.array([counts.get(name, 0) for name in names]) / sizes
        for kind in ("error", "response"):
            if kind in wanted and (self._looks or self.rates != "best"):
                rates[kind] = env.advised_rates(kind)
        if "uniform" in wanted:
            rates["uniform"] = env.budget.fill(lambda _, window: window.count(0.0)) / sizes
        if self.rates == "best":
            rates |= {f"{a}+{b}": (rates[a] + rates[b]) / 2 for a, b in combinations(list(rates), 2)}
            inside = np.array(["residual" not in group.kinds for group in env.prunable])
            if inside.any() and not inside.all():
                rates |= {kind + INSIDE: rate * inside for kind, rate in rates.items()}
        chosen = {only: rates.get(only, next(iter(rates.values())))} if only else rates
        return {kind: rounds.met(env, rate) for kind, rate in chosen.items()}

    @property
    def _looks(self) -> bool:
        """Whether there are images to measure activations on."""
        return getattr(self.env.problem.data, "calibration", None) is not None

    def _probe(self) -> Any:
        from rlprune.recovery import make_recovery

        return make_recovery(self.probe_recovery if self._looks else "none")

    def _norms(self, name: str) -> Any:
        """A group's scores, comparable between layers."""
        return rounds.per_weight(self.env, name) if self.per_weight else self.env.scores[name]

    def _paper(self) -> dict[str, int]:
        """How many filters every group loses this round; all 0, and no training, is how the game ends."""
        counts = dict.fromkeys((group.name for group in self.env.prunable), 0)
        kept = [line["accepted"] for line in self.env.history]
        beaten = len(kept) > self.patience and not any(kept[-self.patience - 1 :])
        if beaten or self._idle >= max(1, self.patience):
            return counts
        self._press()
        order = sorted((float(self._norms(name)[i]), name) for name, chosen in self._weakest().items() for i in chosen)
        slack, delta = self._pressure(), self.delta / 2 ** kept.count(False)
        if self.rebisect:
            limit = self._bisect(order, delta * slack * self.env.tolerance)
        else:
            if self.threshold is None:
                self.threshold = self._bisect(order, self.env.tolerance)
            limit = delta * slack * self.threshold
        for score, name in order:
            counts[name] += score < limit
        self._idle = 0 if any(counts.values()) else self._idle + 1
        return counts

    def _bisect(self, order: list[tuple[float, str]], allowed: float) -> float:
        """Just above the k-th weakest norm, k the most that can go at an immediate drop of `allowed`."""
        env, probe = self.env, self._probe()

        def drop(count: int) -> float:
            score, _ = env.preview(env.feasible(rounds.counts_of(name for _, name in order[:count])), probe)
            return env.score.value - score.value

        count = rounds.largest_harmless(len(order), drop, allowed + 1e-9)
        return float(np.nextafter(order[count - 1][0], np.inf)) if count else 0.0

    # After the training: repair learnt, or a setback ------------------------------------------------------------

    def learn(self, aim: Aim, now: Standing, line: Mapping[str, Any]) -> float | None:
        """Inside: the trust region grows. Outside: it shrinks, and training is trusted with less."""
        return self._region.learn(aim, now, line)

    def state_dict(self) -> dict[str, Any]:
        """What the next round needs to know of the rounds before."""
        return {**super().state_dict(), "region": self._region.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict`'s result."""
        super().load_state_dict(state)
        self._region.load_state_dict(state["region"])
