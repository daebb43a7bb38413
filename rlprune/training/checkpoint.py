"""The state of a training run on disk, written whole after every epoch."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from rlprune.errors import UserError
from rlprune.files import read_tensors, write_tensors
from rlprune.training.report import TrainReport

State = dict[str, Tensor]


@dataclass
class Run:
    """All that a run has to remember; random streams are derived from the seed, so it holds none.

    Attributes:
        model: The network that is trained.
        optimizer: Its optimizer.
        average: Moving average of the network, if one is kept.
        best: The best weights so far, if somebody judges them.
        report: What was done so far.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    average: nn.Module | None
    best: State | None
    report: TrainReport

    def save(self, path: Path) -> None:
        """Write the state."""
        write_tensors(
            path,
            {
                "model": self.model.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "average": self.average.state_dict() if self.average is not None else None,
                "best": self.best,
                "report": asdict(self.report),
            },
        )

    def load(self, path: Path) -> None:
        """Take up the state that `save` wrote.

        Raises:
            UserError: if the file is damaged or of another network.
        """
        content = read_tensors(path, str(next(self.model.parameters()).device), sealed=True)
        try:
            self.model.load_state_dict(content["model"])
            self.optimizer.load_state_dict(content["optimizer"])
            if self.average is not None:
                self.average.load_state_dict(content["average"])
            self.best, self.report = content["best"], TrainReport(**content["report"])
        except (KeyError, RuntimeError, ValueError, AttributeError, TypeError) as error:
            raise UserError(
                f"checkpoint {path} does not fit this network or these settings ({str(error).splitlines()[0]}); "
                "delete it to start again"
            ) from None
