"""The rules of an environment, in plain values; importing them loads neither torch nor Gymnasium's environments."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Real
from typing import Any

from rlprune.errors import UserError, check_known, check_rate, check_seed
from rlprune.kinds import check_kinds
from rlprune.typed import as_table, check_fields

ON_VIOLATION = ("stop", "retry", "back")
ADVICE = ("error", "response")
COUNTED = ("macs", "parameters")


@dataclass(frozen=True)
class Rules:
    """What an environment plays by, whatever the network.

    Attributes:
        criterion: How filters are ranked.
        reward: Name of the reward; see `rlprune.envs.episode.rewards`.
        tolerance: Allowed drop of the control score, >= 0, in the score's own units.
        budget: Fraction of what is `counted` to keep, in (0, 1]. With `one_shot` it is met to within one filter by
            construction; else the episode ends once it is met. None: no budget.
        counted: What the budget is a fraction of: `macs` or `parameters`.
        max_rate: Largest rate for one group in one round, a hard limit.
        rounds: Rounds after which the episode is truncated; None for no limit.
        one_shot: One round, then the end: no rollback, the budget is met at once.
        on_violation: What follows a round that leaves the tolerance: `stop` ends the episode, `retry` goes back to the
            last network inside it, halves the largest rate and goes on, `back` goes back and goes on as it is, until
            the same removal has failed twice.
        dense: Add a potential-based term for every step; it adds up to zero over a round.
        skip: Kinds of groups to leave alone, such as `["residual"]`.
        seed: Of everything random: data split, ranking, recovery.
        errors: Whether the observation tells what the groups' removal costs. None: with `one_shot` only, since every
            round needs new Gram matrices, and a factorisation for every layer.
        advice: What that cost is, and the advised rates with it: `error`, of the groups' readers, or `response`, of the
            network's outputs, which is measured on a few calibration images.
        confidence: Accept a network only where its drop is inside the tolerance with this probability, in [0, 1), by
            the examples on which it differs from the unpruned network; 0 takes the drop as it is.
        shown_tolerance: The tolerance that the observation tells of, where it is not the one that is kept.
    """

    criterion: str = "l1"
    reward: str = "tolerance"
    tolerance: float = 0.01
    budget: float | None = None
    counted: str = "macs"
    max_rate: float = 0.5
    rounds: int | None = None
    one_shot: bool = False
    on_violation: str = "stop"
    dense: bool = False
    skip: tuple[str, ...] = ()
    seed: int = 0
    errors: bool | None = None
    advice: str = "error"
    confidence: float = 0.0
    shown_tolerance: float | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "skip", check_kinds("skip", self.skip))
        check_fields(self)
        check_tolerance("tolerance", self.tolerance)
        if self.shown_tolerance is not None:
            check_tolerance("shown_tolerance", self.shown_tolerance)
        check_rate("max_rate", self.max_rate)
        check_confidence(self.confidence)
        check_seed(self.seed)
        if self.budget is not None and not 0.0 < self.budget <= 1.0:
            raise UserError(f"budget is {self.budget}; it must lie in (0, 1], the fraction of the MACs to keep")
        check_known("what a budget counts", self.counted, COUNTED)
        if self.rounds is not None and self.rounds < 1:
            raise UserError(f"rounds is {self.rounds}; it must be at least 1, or None for no limit")
        check_known("advice", self.advice, ADVICE)
        check_known("on_violation", self.on_violation, ON_VIOLATION)

    def check(self) -> Rules:
        """The rules themselves, if criterion and reward are known, which only what needs torch can say.

        Raises:
            UserError: For a criterion, an option of one, or a reward that there is not.
        """
        from rlprune.criteria import get_criterion
        from rlprune.envs.episode.rewards import make_reward

        get_criterion(self.criterion)
        make_reward(self.reward)
        return self

    @property
    def sees_errors(self) -> bool:
        """Whether the observation tells of reconstruction errors."""
        return self.one_shot if self.errors is None else self.errors

    def to_json(self) -> dict[str, Any]:
        """Plain values only."""
        return as_table(self)


def check_confidence(value: float) -> None:
    """Raise UserError unless `value` can be asked of a drop."""
    if not 0.0 <= value < 1.0:
        raise UserError(f"confidence is {value}; it must lie in [0, 1), such as 0.9; 0 takes a drop as it is")


def check_tolerance(name: str, value: float) -> None:
    """Raise UserError unless `value` can be an allowed drop, in whatever units the score has."""
    if not isinstance(value, Real) or not 0.0 <= value < math.inf:  # also false for NaN
        raise UserError(f"{name} is {value!r}; it must be a finite number >= 0, in the units of the score")
