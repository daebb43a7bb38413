"""What a training of a network is made of, in plain values. Nothing here needs torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from rlprune.errors import UserError
from rlprune.spec import ProblemSpec
from rlprune.training.settings import TrainSettings
from rlprune.typed import checked, from_table


@dataclass(frozen=True)
class BaseSettings(ProblemSpec):
    """What is trained, on what, and how.

    Attributes:
        weights: File to go on from: the network's weights, or the `model.pt` of a pruning; None starts at random.
        teacher: File of the unpruned network's weights, which `distillation` imitates.
        control_from: `train` keeps training images aside for control even where the data has a `val` folder, which is
            then left out: for data whose `val` is tiny. None takes `val` where there is one beside a test set.
        training: How to train.
    """

    teacher: str | None = None
    training: TrainSettings = field(default_factory=lambda: TrainSettings(epochs=200.0, lr=0.1, nesterov=True))

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.training.warmup_epochs > self.training.epochs > 0:
            raise UserError(
                f"warmup_epochs is {self.training.warmup_epochs}, of {self.training.epochs} epochs, "
                "so that the learning rate is never reached; give less"
            )
        if bool(self.training.distillation) != (self.teacher is not None):
            raise UserError(
                f"distillation is {self.training.distillation} and the teacher is {self.teacher}: "
                "give both (--teacher FILE --distillation 0.7), or neither"
            )

    @property
    def problem(self) -> ProblemSpec:
        """Network and data."""
        return ProblemSpec(**{item.name: getattr(self, item.name) for item in fields(ProblemSpec)})

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> BaseSettings:
        """The settings that `to_json` wrote."""
        return from_table(cls, content, "the settings")

    @classmethod
    def from_record(cls, record: Mapping[str, Any], folder: Path) -> BaseSettings:
        """The settings that a run was started with; raises UserError if it is of another kind."""
        settings = checked(dict[str, Any], record.get("settings", {}), f"{folder}: settings")
        if "training" not in settings:
            raise UserError(f"{folder} holds a pruning, not a training; choose another --out")
        return cls.from_json(settings)
