"""The best of several episodes: the deterministic one and sampled ones, all of which are scored and counted."""

from __future__ import annotations

from typing import Any

import gymnasium

from rlprune.agents.controllers.base import Controller, Rule, run_episode
from rlprune.agents.controllers.search import Search
from rlprune.errors import UserError
from rlprune.seeding import derive, seeded

STOCHASTIC = frozenset({"ppo", "a2c", "sac", "trpo", "tqc", "crossq"})
"""Algorithms whose policies can be sampled; the others' have one action for an observation."""


class BestOf(Rule):
    """Plays whole episodes on a twin of its environment before the first step, and then the best one's counts.

    With a budget the best is the one with the greatest control score, else the one with the fewest MACs; of equal ones
    the first. Every episode costs the evaluations it needs, and the ledger counts them.

    Args:
        controller: A trained agent with a stochastic policy, or a rule with a random stream (a search).
        episodes: How many: the first is the deterministic one (of a search, its own), the others are drawn.

    Attributes:
        tried: Of every episode its `score`, `drop`, `macs_share` and the evaluations made by then.
        on_trial: Told of every episode: how many are done, how many there will be, the best score.

    Raises:
        UserError: If all episodes would be the same.
    """

    remembered = ("tried", "_counts")

    def __init__(self, controller: Controller, episodes: int) -> None:
        algorithm = getattr(controller, "card", {}).get("algorithm", "")
        if not isinstance(controller, Search) and algorithm not in STOCHASTIC:
            what = f"{algorithm} agent" if algorithm else type(controller).__name__
            raise UserError(
                f"--samples is {episodes}, and every episode of this {what} is the same; "
                f"leave it out, or take a search or an agent of {', '.join(sorted(STOCHASTIC))}"
            )
        self.controller, self.episodes = controller, episodes
        self.tried: list[dict[str, Any]] = []
        self._counts: list[dict[str, int]] = []

    def bind(self, env: gymnasium.Env[Any, Any]) -> None:
        """Try episodes of this environment."""
        super().bind(env)
        self.tried, self._counts = [], []

    def count(self) -> int:
        """The best episode's count; the trials run at the first step."""
        if not self._counts:
            self._try()
        return self._counts[self.env.round].get(self.env.group.name, 0)

    def _try(self) -> None:
        env = self.env
        twin = env.twin()
        with_budget, best = twin.budget.target is not None, -float("inf")
        for number in range(self.episodes):
            with seeded(derive(env.rules.seed, "sample", number)):
                if isinstance(self.controller, Search):
                    self.controller.draw = number
                info = run_episode(twin, self.controller, seed=env.rules.seed, deterministic=number == 0).info
            worth = info["final_score"] if with_budget else -info["final_macs_share"]
            if worth > best:
                best = worth
                self._counts = [dict(line["removed"]) for line in twin.history]
            names = {"score": "final_score", "drop": "final_drop", "macs_share": "final_macs_share"}
            spent = env.problem.ledger.evaluations
            self.tried.append({**{name: info[key] for name, key in names.items()}, "evaluations": spent})
            if self.on_trial is not None:
                self.on_trial(number + 1, self.episodes, max(line["score"] for line in self.tried))
