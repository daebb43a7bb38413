"""A trained agent beside the rules of `prc`: its schedules are tried with theirs, and the best one goes on."""

from __future__ import annotations

from rlprune.agents.controllers.base import Controller
from rlprune.agents.controllers.prc import PRC
from rlprune.agents.controllers.sampling import STOCHASTIC
from rlprune.seeding import derive, seeded

AGENT = "agent"


class Beside(PRC):
    """PRC's game with an agent's schedules among its kinds of rates.

    All of them end a round at the same cost, and the least control loss after the cheap recovery decides; of equal ones
    the agent's. So a round is never worse than the rules', as far as the control split tells.

    Args:
        controller: The agent.
        samples: How many schedules of its own are tried: by its likeliest actions, then drawn, if it can draw.
    """

    def __init__(self, controller: Controller, samples: int = 2) -> None:
        draws = getattr(controller, "card", {}).get("algorithm") in STOCHASTIC
        self.controller, self.draws = controller, range(1, samples if draws else 1)
        super().__init__()

    @property
    def rule_leads(self) -> bool:
        """Whether it was a rule that had the better schedule last."""
        return not self._kind.startswith(AGENT)

    def _forget(self) -> None:
        super()._forget()
        self._kind = AGENT

    def _candidates(self, only: str = "") -> dict[str, dict[str, int]]:
        """The agent's schedules, by its likeliest actions and drawn, before PRC's; or one kind alone."""
        own = {AGENT: 0} | {f"{AGENT}, drawn {number}": number for number in self.draws}
        if only in own:
            return {only: self._own(own[only])}
        return ({} if only else {kind: self._own(number) for kind, number in own.items()}) | super()._candidates(only)

    def _own(self, number: int) -> dict[str, int]:
        """What the agent takes in this round: by its likeliest actions, or the sample of that number."""
        env = self.env
        with seeded(derive(env.rules.seed, "sample", env.round, number)):
            taken = env.rehearse(self.controller, deterministic=number == 0)
        return {group.name: taken.get(group.name, 0) for group in env.prunable}
