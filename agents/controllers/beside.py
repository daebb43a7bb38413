"""A trained agent beside the rule that advises it: both are tried, and the better one goes on."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from rlprune.agents.controllers.base import Controller, RoundRule
from rlprune.agents.controllers.error import advised_counts
from rlprune.agents.controllers.sampling import STOCHASTIC
from rlprune.envs.episode.racing import Trial
from rlprune.seeding import derive, seeded

AGENT = "agent"


class Beside(RoundRule):
    """Tries the schedules of an agent and of the rule that advises it before every round, and plays the best.

    Both end the round at the same cost, so that the score after the cheap repairs decides; of equal ones the agent's.
    Where more may be tried, the agent's others are drawn from its policy. So a round is never worse than the rule's, as
    far as the control score tells, and costs as many evaluations as are tried.

    Args:
        controller: The agent.
        samples: How many schedules are tried, at least 2; of an agent that cannot draw no more than 2 are.

    Attributes:
        cheap: What repairs a network that is tried; None takes what repairs the one that is played.
        tried: Of every round and schedule `round`, `by`, its `score`, and the evaluations made by then.
        leads: Who had the better schedule last.
    """

    cheap: Any = None
    remembered = ("tried", "leads")

    def __init__(self, controller: Controller, samples: int = 2) -> None:
        self.controller = controller
        draws = getattr(controller, "card", {}).get("algorithm") in STOCHASTIC
        self.samples = samples if draws else min(samples, 2)
        self.tried: list[dict[str, Any]] = []
        self.leads = AGENT

    @property
    def rule_leads(self) -> bool:
        """Whether it was the rule that had the better schedule last."""
        return self.leads != AGENT

    def schedule(self) -> dict[str, int]:
        """The counts of who had the better schedule last."""
        return self._schedules()[self.leads]()

    def plan(self) -> dict[str, int]:
        """The best schedule of this round."""
        env, round_, chosen = self.env, self.env.round, {}
        best: Trial | None = None
        for number, (name, schedule) in enumerate(self._schedules().items()):
            counts = env.feasible(schedule())
            trial = env.race(counts, best, lambda one: one.score.value, self.cheap)
            score, evaluations = trial.score.value, env.problem.ledger.evaluations
            self.tried.append({"round": round_, "by": name, "score": score, "evaluations": evaluations})
            if best is None or score > best.score.value:
                best, chosen, self.leads = trial, counts, AGENT if name.startswith(AGENT) else name
            if self.on_trial is not None:
                self.on_trial(number + 1, self.samples, best.score.value)
        return chosen

    def _schedules(self) -> dict[str, Callable[[], dict[str, int]]]:
        """What finds each schedule, by name; none of them scores anything."""
        env = self.env

        def drawn(number: int) -> dict[str, int]:
            with seeded(derive(env.rules.seed, "sample", env.round, number)):
                return env.rehearse(self.controller, deterministic=False)

        found: dict[str, Callable[[], dict[str, int]]] = {
            AGENT: partial(env.rehearse, self.controller),
            env.rules.advice: partial(advised_counts, env, env.rules.advice),
        }
        return found | {f"{AGENT}, drawn {number}": partial(drawn, number) for number in range(1, self.samples - 1)}
