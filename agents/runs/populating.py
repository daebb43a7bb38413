"""Train a population of drawn networks, several at once, in a folder that can be gone on with.

<folder>/
    population.json     settings, and every network that is trained: family, seed, cost, scores
    FAMILY-SEED/        a run of `rlprune train`: model.pt, record.json
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from rlprune.agents.runs.basesettings import BaseSettings
from rlprune.agents.runs.basetraining import ready, train_base
from rlprune.agents.runs.population import FILE, Member, PopulationSettings, content_of, read_members, read_settings
from rlprune.agents.runs.processes import ProcessPool, done
from rlprune.errors import UserError, check_count
from rlprune.files import write_json, write_text
from rlprune.locking import locked
from rlprune.models import family_of, resolve_model
from rlprune.record import RunFolder

OnMember = Callable[[int, Member], None]


@dataclass(frozen=True)
class Training:
    """The training of one network, for a worker process.

    Attributes:
        name: Its folder in that of the population.
        settings: What to do.
        folder: The population's.
        command: For its record.
    """

    name: str
    settings: BaseSettings
    folder: Path
    command: str

    @property
    def id(self) -> str:
        """The name."""
        return self.name

    def run(self) -> Member | str:
        """Train, or go on, or read what is done; what failed in words."""
        import torch

        from rlprune.cost import count_macs, count_parameters

        run, started = RunFolder(self.folder / self.name), time.process_time()
        try:
            record = train_base(self.settings, run, command=self.command, resume=True)
            shape = record["data"]["input_shape"]
            model = resolve_model(self.settings.model, num_classes=len(record["data"]["classes"]), in_channels=shape[0])
            cost = count_macs(model.eval(), torch.zeros(1, *shape)), count_parameters(model)
        except UserError as error:
            return str(error)
        except Exception as error:  # a failure of one network is no reason to lose the others
            write_text(run.path / "error.txt", traceback.format_exc())
            return f"{type(error).__name__}: {error} (see {run.path / 'error.txt'})"
        scores = record["control_score"], record["test_score"]
        family, seed = family_of(self.settings.model)
        seconds = round(time.process_time() - started, 1)
        return Member(family, seed, self.settings.model, f"{self.name}/model.pt", *cost, *scores, seconds)

    def died(self, message: str) -> str:
        """What it gives where it takes its process down every time."""
        return message


def train_population(
    settings: PopulationSettings,
    folder: Path,
    *,
    workers: int = 1,
    resume: bool = False,
    command: str = "",
    on_member: OnMember | None = None,
) -> list[Member]:
    """Train what is missing of a population.

    The work is done in worker processes that are started afresh (spawned), one thread each. Stopped at any moment, it
    goes on from the last whole epoch of every network.

    Args:
        settings: What to train.
        folder: Where to write; one that holds a population already is an error unless `resume` is set.
        workers: Processes at once.
        resume: Go on.
        command: For the record.
        on_member: Told of every network that is trained: how many there are, and which.

    Returns:
        The networks, in the order of the settings.

    Raises:
        UserError: For anything the user can mend. A network that failed is named once the others are done.
    """
    check_count("--workers", workers)
    trainings = settings.members()
    _check(settings, folder, resume)
    ready(next(iter(trainings.values())))  # what is wrong with data and task is said once, and now
    with locked(folder, FILE):
        books = _Books(settings, folder, command, list(trainings))
        books.write()
        missing = [
            Training(name, each, folder, command) for name, each in trainings.items() if name not in books.members
        ]
        pool = ProcessPool(workers)
        try:
            for training, result in done(missing, pool):
                books.take(training.name, result)
                if on_member is not None and isinstance(result, Member):
                    on_member(len(books.members), result)
        finally:
            pool.close()
    if books.failed:
        name, reason = next(iter(books.failed.items()))
        raise UserError(f"{len(books.failed)} of {len(trainings)} networks failed, {name} first: {reason}")
    return list(books.members.values())


class _Books:
    """What `population.json` says, in the order of the settings."""

    def __init__(self, settings: PopulationSettings, folder: Path, command: str, names: list[str]) -> None:
        self.settings, self.folder, self.command, self.names = settings, folder, command, names
        self.failed: dict[str, str] = {}
        before = read_members(folder) if (folder / FILE).exists() else []
        self._found = {Path(member.weights).parent.name: member for member in before}

    @property
    def members(self) -> dict[str, Member]:
        """Those that are trained, by name."""
        return {name: self._found[name] for name in self.names if name in self._found}

    def take(self, name: str, result: Member | str) -> None:
        """Write what a training gave."""
        if isinstance(result, str):
            self.failed[name] = result
        else:
            self._found[name] = result
            self.write()

    def write(self) -> None:
        """Bring the file up to date."""
        status = "finished" if len(self.members) == len(self.names) else "running"
        write_json(self.folder / FILE, content_of(self.settings, self.members.values(), self.command, status))


def _check(settings: PopulationSettings, folder: Path, resume: bool) -> None:
    """Raise UserError if the folder holds something that this is not to go on with; fewer networks may become more."""
    if not (folder / FILE).exists():
        return
    if not resume:
        raise UserError(f"{folder} holds a population already; add --resume to go on with it, or choose another --out")
    before = read_settings(folder)
    if replace(before, networks=settings.networks) != settings or before.networks > settings.networks:
        raise UserError(
            f"the population in {folder} was started with other settings; --resume takes more --networks only"
        )
