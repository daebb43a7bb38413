"""A run's curves in TensorBoard."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

    from rlprune.problem import PruningProblem


class Curves:
    """Scalars of every round, the rate of every group, and the final numbers, as TensorBoard events in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._writer: SummaryWriter | None = None

    def start(self, round_number: int) -> None:
        """Begin writing after `round_number` rounds; what an earlier process wrote beyond them is dropped."""
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(self.folder), purge_step=round_number + 1)

    def round(self, line: dict[str, Any], problem: PruningProblem) -> None:
        """Write a round's score, drop, cost, and the rate of every group."""
        if self._writer is None:
            return
        step = line["round"]
        scalars = {
            "prune/score": line["score"],
            "prune/drop": line["drop"],
            "prune/macs": line["macs"],
            "prune/macs_left": line["macs"] / problem.cost.macs(),
            "prune/parameters": line["parameters"],
            **{f"reward/{name}": value for name, value in line["reward_terms"].items()},
            **{f"rate/{name}": rate for name, rate in line["rates"].items()},
        }
        for tag, value in scalars.items():
            self._writer.add_scalar(tag, value, step)
        self._writer.flush()

    def picture(self, path: Path, step: int) -> None:
        """Show a picture that is in a file."""
        import numpy as np
        from PIL import Image

        if self._writer is not None:
            with Image.open(path) as image:
                self._writer.add_image(path.stem, np.asarray(image.convert("RGB")), step, dataformats="HWC")

    def close(self, record: dict[str, Any]) -> None:
        """Write the final widths and close the file."""
        if self._writer is None:
            return
        for layer in record["widths"]:
            self._writer.add_scalar(f"width/{layer['name']}", layer["after"], len(record["rounds"]))
        self._writer.close()
        self._writer = None
