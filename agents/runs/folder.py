"""A run folder as the engine's sink: record, metrics, curves, pictures, and the state to go on from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlprune.agents.runs.recipe import Recipe
from rlprune.artifact import save_pruned
from rlprune.errors import UserError
from rlprune.network import Network
from rlprune.problem import PruningProblem
from rlprune.record import RunFolder
from rlprune.report import plots
from rlprune.report.curves import Curves
from rlprune.report.examples import find_examples
from rlprune.report.pictures import PICTURES, draw_examples
from rlprune.report.units import Unit


class FolderSink:
    """Keeps a run in a folder.

    Args:
        folder: Where.
        record: The record of the run as it begins.
        problem: For the curves and pictures.
    """

    def __init__(self, folder: RunFolder, record: dict[str, Any], problem: PruningProblem) -> None:
        self.folder, self.record, self.problem = folder, record, problem
        self.curves = Curves(folder.path)
        self._told = -1

    @property
    def begun(self) -> bool:
        """Whether anything was written."""
        return self._told >= 0

    def load(self) -> Mapping[str, Any] | None:
        """The state of the last whole round."""
        return self.folder.load_checkpoint(str(self.problem.device))

    def save(self, state: Mapping[str, Any], rounds: list[dict[str, Any]]) -> None:
        """Keep state and record; a state without content is a run that begins."""
        if self._told < 0:
            self.curves.start(len(rounds))
            self._told = len(rounds)
        elif state:
            self.folder.save_checkpoint(dict(state))
            for old in self.folder.path.glob("cycle-*.pt"):  # of the round that this state is after
                old.unlink(missing_ok=True)
        self.record["rounds"] = rounds
        self.folder.write(self.record)
        for line in rounds[self._told :]:
            self.curves.round(line, self.problem)
        self._told = len(rounds)

    def cycle_file(self, name: str) -> Path | None:
        """In the folder."""
        return self.folder.path / f"{name}.pt"

    def finish(self, network: Network, closing: Mapping[str, Any], watcher: Any) -> dict[str, Any]:
        """Write the network, the pictures and the whole record; drop what the run needed to go on."""
        record, problem, folder = self.record, self.problem, self.folder
        record |= closing
        meta = {"model": record["model"], "classes": list(problem.data.classes), "plan": network.plan.to_json()}
        record["sha256"] = save_pruned(folder.model_file, problem.model, network.model, meta)
        watcher.work("drawing")
        title = f"{record['model']}: {record['baseline']['macs'] / record['pruned']['macs']:.2f}× fewer MACs"
        plots.save(plots.widths(record["widths"], title), folder.path / "widths.png")
        before = record["baseline"]
        rounds = plots.rounds(record["rounds"], record["tolerance"], before["macs"], Unit.of(before))
        plots.save(rounds, folder.path / "rounds.png")
        examples = find_examples(problem, problem.model, network.model)
        if examples is not None:
            record["pictures"] = examples.caption
            plots.save(draw_examples(examples), folder.path / PICTURES)
            self.curves.picture(folder.path / PICTURES, len(record["rounds"]))
        folder.write(record)
        self.curves.close(record)
        folder.clear_state()
        return record


def begin(folder: RunFolder, recipe: Recipe, problem: PruningProblem, resume: bool) -> dict[str, Any] | None:
    """Look at a folder before a run: its record if it is finished already, None to begin or go on.

    Raises:
        UserError: If it holds something else, or a run that must not be overwritten.
    """
    if not folder.exists():
        return None
    previous = folder.read()
    if not resume:
        raise UserError(f"{folder.path} holds a run already; add --resume to go on with it, or choose another --out")
    settings = previous["settings"]
    if "controller" not in settings:
        raise UserError(f"{folder.path} holds another kind of run, not a pruning; choose another --out")
    if settings != {**recipe.to_json(), "problem": problem.source}:
        raise UserError(f"the run in {folder.path} was started with other settings; --resume takes none of its own")
    folder.clear_remains()
    if previous["status"] == "finished":
        folder.clear_state()  # killed before it could do so
        return previous
    return None
