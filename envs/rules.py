"""The rules of an environment, in plain values."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from rlprune.criteria import get_criterion
from rlprune.envs.episode.rewards import make_reward
from rlprune.errors import UserError, check_rate, unknown_name

ON_VIOLATION = ("stop", "retry")


@dataclass(frozen=True)
class EnvSettings:
    """The rules, without the network they are applied to. `FilterPruningEnv` says what each of them means."""

    criterion: str = "l1"
    reward: str = "tolerance"
    tolerance: float = 0.01
    budget: float | None = None
    max_rate: float = 0.5
    rounds: int | None = None
    one_shot: bool = False
    on_violation: str = "stop"
    dense: bool = False
    skip: tuple[str, ...] = ()
    seed: int = 0
    errors: bool | None = None
    shown_tolerance: float | None = None

    def __post_init__(self) -> None:
        check_rate("tolerance", self.tolerance)
        if self.shown_tolerance is not None:
            check_rate("shown_tolerance", self.shown_tolerance)
        check_rate("max_rate", self.max_rate)
        if self.budget is not None and not 0.0 < self.budget <= 1.0:
            raise UserError(f"budget is {self.budget}; it must lie in (0, 1], the fraction of the MACs to keep")
        if self.rounds is not None and self.rounds < 1:
            raise UserError(f"rounds is {self.rounds}; it must be at least 1, or None for no limit")
        if self.on_violation not in ON_VIOLATION:
            raise unknown_name("on_violation", self.on_violation, ON_VIOLATION)
        get_criterion(self.criterion)
        make_reward(self.reward)

    @property
    def sees_errors(self) -> bool:
        """Whether the observation tells of reconstruction errors."""
        return self.one_shot if self.errors is None else self.errors

    def to_json(self) -> dict[str, Any]:
        """Plain values only."""
        return {**asdict(self), "skip": list(self.skip)}
