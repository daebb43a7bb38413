"""The state of a training run on disk, written whole after every epoch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from rlprune.errors import UserError
from rlprune.files import read_tensors, write_tensors

if TYPE_CHECKING:
    from rlprune.training.loop import TrainReport


class Checkpoint:
    """Where a run's state is kept; random streams are derived from the seed, so it holds none."""

    def __init__(self, path: Path) -> None:
        self.path = Path(path)

    def exists(self) -> bool:
        """Whether there is something to go on from."""
        return self.path.is_file()

    def save(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        average: nn.Module | None,
        best: dict[str, Tensor] | None,
        report: TrainReport,
    ) -> None:
        """Write the state."""
        write_tensors(
            self.path,
            {
                "model": model.state_dict(),
                "optimizer": optimizer.state_dict(),
                "average": average.state_dict() if average is not None else None,
                "best": best,
                "report": asdict(report),
            },
        )

    def restore(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        average: nn.Module | None,
        report: TrainReport,
        wait: Callable[[], None],
    ) -> dict[str, Tensor] | None:
        """Read the state into the arguments, and return the best weights so far.

        Raises:
            UserError: if the file is damaged or of another network.
        """
        device = next(model.parameters()).device
        content = read_tensors(self.path, str(device))
        wait()  # no process may overwrite the file before all have read it
        try:
            model.load_state_dict(content["model"])
            optimizer.load_state_dict(content["optimizer"])
            if average is not None:
                average.load_state_dict(content["average"])
            for name, value in content["report"].items():
                setattr(report, name, value)
        except (KeyError, RuntimeError, ValueError, AttributeError) as error:
            raise UserError(
                f"checkpoint {self.path} does not fit this network or these settings ({str(error).splitlines()[0]}); "
                "delete it to start again"
            ) from None
        best: dict[str, Tensor] | None = content["best"]
        return best
