"""A population of drawn networks: what it is made of, and the folder that it lies in. Nothing here needs torch."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rlprune.agents.runs.basesettings import BaseSettings
from rlprune.errors import UserError, check_count, reading
from rlprune.files import read_json
from rlprune.spec import ProblemSpec
from rlprune.training.settings import TrainSettings
from rlprune.typed import as_table, from_table

FORMAT = "rlprune-population-1"
FILE = "population.json"
PREFIX = "population:"
DRAWN = "drawn:"


@dataclass(frozen=True)
class PopulationSettings:
    """What a population is made of.

    Attributes:
        families: Of the grammar (`drawn:FAMILY-SEED`), in turn; none takes all of them.
        networks: How many.
        first: Seed of the first network of every family; the next ones follow.
        problem: The data and how they are cut, the same for all; its seed is of all trainings.
        training: How each is trained.
    """

    families: tuple[str, ...] = ()
    networks: int = 20
    first: int = 0
    problem: ProblemSpec = field(default_factory=ProblemSpec)
    training: TrainSettings = field(
        default_factory=lambda: TrainSettings(epochs=2.0, lr=0.1, nesterov=True, warmup_epochs=0.2, amp=False)
    )

    def __post_init__(self) -> None:
        check_count("networks", self.networks)
        if self.first < 0:
            raise UserError(f"first is {self.first}; it must be at least 0")
        if self.training.epochs == 0:
            raise UserError("epochs is 0.0, and networks that are not trained are no population; it must be above 0")

    def members(self) -> dict[str, BaseSettings]:
        """The trainings by the name of their folder, family after family, so that a part is a population too."""
        from rlprune.models import FAMILIES, family_of  # needs torch

        families = self.families or tuple(FAMILIES.names())
        for family in families:
            family_of(f"{DRAWN}{family}-0")
        names = [f"{families[n % len(families)]}-{self.first + n // len(families)}" for n in range(self.networks)]
        shared = {name: value for name, value in vars(self.problem).items() if name not in ("model", "weights")}
        return {name: BaseSettings(**shared, model=f"{DRAWN}{name}", training=self.training) for name in names}


@dataclass(frozen=True)
class Member:
    """A trained network of a population.

    Attributes:
        family: Of the grammar.
        seed: Of its shape.
        model: Specification.
        weights: File, from the population's folder.
        macs, parameters: What it costs.
        control_score, test_score: How it does.
        seconds: Processor time of its training.
    """

    family: str
    seed: int
    model: str
    weights: str
    macs: int
    parameters: int
    control_score: float
    test_score: float
    seconds: float


def read_members(folder: Path) -> list[Member]:
    """The networks that are trained so far; raises UserError if the folder holds something else."""
    with reading(folder / FILE, "a population"):
        content = read_json(folder / FILE)
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise UserError(f"{folder / FILE} is not a population of networks (format {FORMAT})")
        return [from_table(Member, entry, "a network of the population") for entry in content["members"]]


def read_population(folder: str | Path) -> list[Member]:
    """The trained networks with their weights' files; raises UserError where there are none, or no population is."""
    if not (Path(folder) / FILE).exists():
        raise UserError(f"no population in {folder}: it has no {FILE}; `rlprune train-population` writes one")
    members = read_members(Path(folder))
    if not members:
        raise UserError(f"no network of {folder} is trained yet; go on with `rlprune train-population --resume`")
    return [replace(member, weights=str(Path(folder) / member.weights)) for member in members]


def expanded(models: Iterable[str]) -> tuple[str, ...]:
    """Networks as `NAME` or `NAME=WEIGHTS`, with `population:FOLDER` as all that it holds.

    >>> expanded(["lenet5", "vgg16=vgg.pt"])
    ('lenet5', 'vgg16=vgg.pt')
    """
    found: list[str] = []
    for model in models:
        if model.startswith(PREFIX):
            found += [f"{member.model}={member.weights}" for member in read_population(model.removeprefix(PREFIX))]
        else:
            name, equals, weights = model.partition("=")
            if not name or (equals and not weights):
                raise UserError(f"--models has {model!r}; each must be NAME, NAME=WEIGHTS or {PREFIX}FOLDER")
            found.append(model)
    return tuple(found)


def content_of(settings: PopulationSettings, members: Iterable[Any], command: str, status: str) -> dict[str, Any]:
    """What `population.json` holds."""
    from rlprune.record import versions

    return {
        "format": FORMAT,
        "status": status,
        "settings": as_table(settings),
        "command": command,
        "versions": versions(),
        "members": [vars(member) for member in members],
    }


def read_settings(folder: Path) -> PopulationSettings:
    """The settings that a population was started with; raises UserError for anything else."""
    with reading(folder / FILE, "a population"):
        return from_table(PopulationSettings, read_json(folder / FILE)["settings"], "the settings of a population")
