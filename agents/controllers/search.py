"""Search over whole schedules: random (EagleEye) and cross-entropy, as controllers like any other.

At the start of a round they try schedules by `env.race`, which prunes, recovers and scores without changing anything,
and no further than it takes to tell who is better; then they play the best. Every trial is an evaluation and counts as
one, with the images that it was scored on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from rlprune.agents.controllers.base import RoundRule
from rlprune.envs.episode.racing import Trial
from rlprune.errors import UserError, check_count, check_known
from rlprune.seeding import numpy_generator

Vector = NDArray[np.float64]
STARTS = {"uniform": 2.0, "error": 0.5}
"""Where a cross-entropy search may start, and how widely it then looks around."""


class Search(RoundRule):
    """A controller that looks for the best schedule of a round before it plays it.

    Attributes:
        trials: Schedules tried in the current round, in order.
        draw: Which of its random streams it draws from.
        racing: Whether a schedule is scored only until it is beaten with a probability of 99 %, where that can be told.
    """

    draw: int = 0
    racing: bool = True

    def bind(self, env: gymnasium.Env[Any, Any]) -> None:
        """Search in this environment."""
        super().bind(env)
        self.trials: list[Trial] = []

    def plan(self) -> dict[str, int]:
        """The best schedule found."""
        self.trials = []
        stream: tuple[str | int, ...] = ("search", type(self).__name__, self.env.round)
        self.look(numpy_generator(self.env.rules.seed, *stream, *([self.draw] if self.draw else [])))
        names = (group.name for group in self.env.prunable)
        return dict(zip(names, self.best.counts.tolist(), strict=True))

    @property
    def best(self) -> Trial:
        """The first of the trials with the greatest reward."""
        return max(self.trials, key=lambda trial: trial.reward)

    def look(self, generator: np.random.Generator) -> None:
        """Fill `trials`."""
        raise NotImplementedError

    cheap: Any = None  # a cheaper recovery for trials than the one that is played

    def attempt(self, proposal: Vector, total: int, rival: Trial | None) -> Trial:
        """Try proposed rates (n,), repaired to the budget, against the trial that a better one would replace."""
        counts = self.env.budget.repair(proposal)
        if self.racing:
            trial = self.env.race(counts, rival, lambda one: one.reward, self.cheap)
        else:
            trial = Trial(counts, *self.env.preview(counts, self.cheap))
        self.trials.append(trial)
        if self.on_trial is not None:
            self.on_trial(len(self.trials), total, self.best.reward)
        return trial


@dataclass
class RandomSearch(Search):
    """The best of many random schedules inside the budget (EagleEye: Li et al. 2020).

    EagleEye draws rates uniformly and throws away what misses the budget; here one multiplier repairs it. Its
    adaptive batch norm is the environment's recovery.

    Attributes:
        episodes: Schedules to try.
        racing: Whether a schedule that is beaten with a probability of 99 % is scored no further.
    """

    episodes: int = 60
    racing: bool = True

    def __post_init__(self) -> None:
        check_count("episodes", self.episodes)

    def look(self, generator: np.random.Generator) -> None:
        """Draw and try."""
        size = len(self.env.prunable)
        for _ in range(self.episodes):
            rival = self.best if self.trials else None
            self.attempt(generator.uniform(0.0, self.env.rate_cap, size), self.episodes, rival)


@dataclass
class CrossEntropySearch(Search):
    """Cross-entropy search over schedules (Rubinstein 1999): sample, keep the best, fit, sample again.

    The search runs over z with rates = cap * sigmoid(z). The schedule it starts from is tried first.

    Attributes:
        episodes: Schedules to try.
        start: `uniform` (z = 0), or `error`, the rule of least reconstruction error.
        population: Schedules between two fits.
        elite: Share of the population that the next distribution is fitted to.
        spread: Standard deviation of z at the start; None takes 2 around `uniform`, 0.5 around `error`.
        least: Least standard deviation of z.
        smoothing: Weight of the new fit against the old distribution.
        racing: Whether a schedule that will not be among the elite, with 99 %, is scored no further.
    """

    episodes: int = 240
    start: str = "uniform"
    population: int = 24
    elite: float = 0.25
    spread: float | None = None
    least: float = 0.1
    smoothing: float = 0.7
    racing: bool = True

    def __post_init__(self) -> None:
        check_count("episodes", self.episodes)
        check_count("population", self.population)
        if not 0.0 < self.elite <= 1.0 or not 0.0 < self.smoothing <= 1.0:
            raise UserError(f"elite is {self.elite} and smoothing {self.smoothing}; both must lie in (0, 1]")
        check_known("start", self.start, STARTS)

    def look(self, generator: np.random.Generator) -> None:
        """Sample, try, fit."""
        size, cap = len(self.env.prunable), self.env.rate_cap
        mean = np.zeros(size)
        if self.start == "error":
            inside = np.clip(self.env.advised_rates() / cap, 0.02, 0.98)
            mean = np.log(inside / (1.0 - inside))
        spread = np.full(size, STARTS[self.start] if self.spread is None else self.spread)
        keep = max(2, round(self.elite * self.population))
        while len(self.trials) < self.episodes:
            drawn: list[tuple[Trial, Vector]] = []
            for _ in range(min(self.population, self.episodes - len(self.trials))):
                z = mean + spread * generator.standard_normal(size) if self.trials else mean
                rival = drawn[keep - 1][0] if len(drawn) >= keep else None
                drawn.append((self.attempt(cap / (1.0 + np.exp(-z)), self.episodes, rival), z))
                drawn.sort(key=lambda pair: -pair[0].reward)
            elite = np.array([z for _, z in drawn[:keep]])
            mean = self.smoothing * elite.mean(0) + (1.0 - self.smoothing) * mean
            spread = np.maximum(self.least, self.smoothing * elite.std(0) + (1.0 - self.smoothing) * spread)
