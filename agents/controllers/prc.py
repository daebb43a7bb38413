"""The pruning-rate controller (PRC) with adaptive filter pruning (AFP): a min–max game over the filters.

Singh, Kadi, Verma, Namboodiri, *Acceleration of deep convolutional neural networks using adaptive filter pruning*,
2020 (and *Play and Prune*, 2019). AFP minimises the number of filters, PRC maximises the accuracy and sets the
pressure; the user gives an error tolerance, not a rate. The game, the error tolerance and the linear pressure are the
paper's; the constants and the steps below are reconstructed and every one of them is a parameter.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np

from rlprune.agents.controllers.base import RULES
from rlprune.agents.controllers.fixed import BoundRule
from rlprune.criteria import lowest, plan_from_counts
from rlprune.errors import UserError, check_rate
from rlprune.recovery import FilterL1, Orthogonality, TrainSettings, make_recovery
from rlprune.tasks import score_drop


def pressure(accuracy: float, baseline: float, tolerance: float) -> float:
    """T / ε with T = max(a − (E − ε), 0): 1 at the baseline, falling linearly to 0 at the tolerance's edge.

    Never negative; above 1 where the network got better than the baseline. A tolerance of 0 has no edge to approach:
    the pressure is 1 at or above the baseline and 0 below it.
    """
    if tolerance == 0:
        return float(accuracy >= baseline)
    return max(accuracy - (baseline - tolerance), 0.0) / tolerance


def largest_harmless(count: int, drop: Callable[[int], float], tolerance: float) -> int:
    """The largest k <= count with drop(k) <= tolerance, by bisection; `drop` is taken to be monotone, drop(0) to be 0.

    Calls `drop` at most ceil(log2(count + 1)) times.
    """
    good, bad = 0, count + 1
    while bad - good > 1:
        middle = (good + bad) // 2
        if drop(middle) <= tolerance:
            good = middle
        else:
            bad = middle
    return good


@dataclass
class PRC(BoundRule):
    """The min–max pruning-rate controller.

    At the first group of a round it plays AFP's side for all groups: it picks U, trains with the L1 pressure on U,
    finds the threshold W_0, and fixes how many filters every group loses; then it hands out those counts as rates.
    The environment plays PRC's recovery: it repairs, and rolls back what leaves the tolerance.

    Attributes:
        alpha: Share of each layer's filters that a round may prune (the set U), in (0, 1].
        penalty: λ, weight of the L1 norm of the filters in U at full pressure.
        delta: δ_w, scale of the pruning threshold.
        afp_epochs: Epochs of penalised training before a round's removal; may be a fraction, 0 leaves it out.
        lr: Learning rate of that training.
        batch_size: Images a step in it.
        orthogonality: λ_o, weight of ||M Mᵀ − I||² during it.
        amp: Mixed precision in it.
        rebisect: Find the threshold anew each round, as the largest whose immediate drop is δ_w·T: what is left of
            the tolerance (at its edge, where T = 0, what costs nothing). False keeps W_0 of the first round and scales
            it, W_γ = δ_w·(T/ε)·W_0, as the paper does; where the norms in U lie close together that soon selects
            nothing.
        probe_recovery: Repairs applied before the drop of a trial removal is measured; `none` measures it as it is.
        patience: Rounds of training in a row after which nothing could be removed, before it gives up; and one more
            removal in a row than this that was rolled back. Each of those, where the environment goes on, halves δ_w.
        per_weight: Compare filters of different layers by mean |w| rather than by the sum, which favours pruning
            layers with few weights a filter.
    """

    alpha: float = 0.1
    penalty: float = 5e-4
    delta: float = 1.0
    afp_epochs: float = 1.0
    lr: float = 0.01
    batch_size: int = 128
    orthogonality: float = 1e-4
    amp: bool = False
    rebisect: bool = True
    probe_recovery: str = "lsq+bn-delta"
    patience: int = 2
    per_weight: bool = True

    def __post_init__(self) -> None:
        check_rate("alpha", self.alpha)
        for name in ("penalty", "delta", "afp_epochs", "lr", "orthogonality"):
            value = getattr(self, name)
            if not 0 <= value < float("inf"):
                raise UserError(f"{name} is {value}; it must be a finite number >= 0")
        self.threshold: float | None = None  # W_0, once it is known
        self._idle = 0
        self._repair = make_recovery(self.probe_recovery, TrainSettings())

    def bind(self, env: gymnasium.Env[Any, Any]) -> None:
        """Play in this environment, from its first round."""
        super().bind(env)
        self._counts: dict[str, int] = {}
        self.threshold, self._idle = None, 0

    def count(self) -> int:
        """What the round's threshold takes from the current group."""
        if self.env.visit == 0:
            self._counts = self._plan_round()
        return self._counts[self.env.group.name]

    def state_dict(self) -> dict[str, Any]:
        """What the next round needs to know of the rounds before."""
        return {"threshold": self.threshold, "idle": self._idle}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict`'s result."""
        self.threshold, self._idle = state["threshold"], state["idle"]

    def _plan_round(self) -> dict[str, int]:
        """How many filters every group loses this round; all 0, and no training, is how the game ends."""
        counts = dict.fromkeys((group.name for group in self.env.prunable), 0)
        kept = [line["accepted"] for line in self.env.history]
        beaten = len(kept) > self.patience and not any(kept[-self.patience - 1 :])
        if beaten or self._idle >= max(1, self.patience if self.afp_epochs > 0 else 1):
            return counts
        if self.afp_epochs > 0:
            self._press()
        order = self._ranked(self._weakest())
        limit = self._threshold(order, self.delta / 2 ** kept.count(False))
        for score, name in order:
            counts[name] += score < limit
        self._idle = 0 if any(counts.values()) else self._idle + 1
        return counts

    def _pressure(self) -> float:
        return pressure(self.env.score.value, self.env.baseline.value, self.env.tolerance)

    def _press(self) -> None:
        """AFP's training: the loss, plus λ_A times the L1 norm of the filters in U, with λ_A = λ·T/ε."""
        env = self.env
        env.train(
            TrainSettings(
                epochs=self.afp_epochs, lr=self.lr, batch_size=self.batch_size, schedule="cosine", amp=self.amp
            ),
            penalties=[
                FilterL1(env.network.groups, self._weakest(), weight=self.penalty * self._pressure()),
                Orthogonality(self.orthogonality),
            ],
            tag="afp",
        )

    def _threshold(self, order: list[tuple[float, str]], delta: float) -> float:
        """W_γ: filters in U of a smaller norm go."""
        slack = self._pressure()
        if self.rebisect:
            return self._bisect(order, delta * slack * self.env.tolerance)
        if self.threshold is None:
            self.threshold = self._bisect(order, self.env.tolerance)
        return delta * slack * self.threshold

    def _weakest(self) -> dict[str, tuple[int, ...]]:
        """U: the α share of lowest score in every group; at least one filter where one may go at all."""
        chosen = {}
        for group in self.env.prunable:
            count = min(max(int(self.alpha * group.size), 1), group.max_removable)
            chosen[group.name] = lowest(self.env.scores[group.name], count)
        return chosen

    def _ranked(self, candidates: Mapping[str, tuple[int, ...]]) -> list[tuple[float, str]]:
        """All of U as (norm, group), weakest first."""
        pairs = []
        for name, indices in candidates.items():
            scores = self.env.scores[name]
            if self.per_weight:
                scores = scores / self._weights_per_filter(name)
            pairs += [(float(scores[i]), name) for i in indices]
        return sorted(pairs)

    def _weights_per_filter(self, name: str) -> float:
        groups = self.env.network.groups
        layers = [groups.layers[layer] for layer in groups[name].producers]
        return float(np.mean([np.prod(layer.shape) / max(groups[name].size, 1) for layer in layers]))

    def _bisect(self, order: list[tuple[float, str]], allowed: float) -> float:
        """Just above the k-th weakest norm, k the most that can go at an immediate drop of `allowed`."""
        env = self.env

        def drop(count: int) -> float:
            counts: dict[str, int] = {}
            for _, name in order[:count]:
                counts[name] = counts.get(name, 0) + 1
            plan = plan_from_counts(env.network.groups, env.scores, counts)
            trial = env.network.remove(plan, env.problem.groups)
            self._repair.apply(env.network, trial, plan, env.problem, env.rules.seed)
            return score_drop(env.score.value, env.problem.evaluator.score(trial.model, "control").value)

        count = largest_harmless(len(order), drop, allowed)
        return float(np.nextafter(order[count - 1][0], np.inf)) if count else 0.0
