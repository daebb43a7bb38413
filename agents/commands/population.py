"""`rlprune train-population`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from rlprune.agents.commands.options import Run, Section, command_line, folder_to_resume, parse
from rlprune.agents.commands.prune import spec_of
from rlprune.agents.runs.population import FILE, PREFIX, Member, PopulationSettings, read_settings
from rlprune.importing import print_json
from rlprune.record import free_folder, subject
from rlprune.training.settings import TrainSettings

COMMON = {"families", "networks", "first", "data", "seed", "device", "control_size", "epochs", "lr", "batch_size",
          "workers", "out", "resume", "quiet", "json"}  # fmt: skip
NOT_OPTIONS = ("model", "weights", "keep", "min_channels", "round_to")


@dataclass(frozen=True)
class Workers:
    """How the trainings are done.

    Attributes:
        workers: Networks trained at once, each in a process with one thread.
    """

    workers: int = 1


def train_population(argv: Sequence[str], about: str, examples: str) -> int:
    """Train a population."""
    folder, start = folder_to_resume(argv), PopulationSettings()
    if folder is not None and (folder / FILE).exists():
        start = read_settings(folder)
    sections = [
        Section(PopulationSettings, default=start),
        Section(type(start.problem), default=start.problem, skip=NOT_OPTIONS),
        Section(TrainSettings, default=start.training),
        Section(Workers),
        Section(Run, skip=("trust",)),
    ]
    given = parse("train-population", sections, argv, common=COMMON, about=about, examples=examples)
    training = TrainSettings(**{item.name: given[item.name] for item in fields(TrainSettings)})
    own = {name: given[name] for name in ("families", "networks", "first")}
    settings = PopulationSettings(**own, problem=spec_of(given), training=training)
    out = Path(given["out"] or free_folder("runs", f"population-{subject('', settings.problem.data)[1]}"))

    from rlprune.agents.commands.progress import Tenths  # from here on it may take its time
    from rlprune.agents.runs.populating import train_population as train

    with Tenths("training networks", quiet=given["quiet"]) as bar:

        def told(count: int, member: Member) -> None:
            score = f"{member.family}-{member.seed} scores {member.test_score:.4f}"
            bar.step(f"network {count} of {settings.networks}, {score}", count / settings.networks)

        options = {"workers": given["workers"], "resume": given["resume"], "command": command_line()}
        members = train(settings, out, **options, on_member=told)
    if given["json"]:
        print_json([vars(member) for member in members])
    elif not given["quiet"]:
        for member in members:
            size = f"{member.macs / 1e6:6.1f} M MACs  {member.parameters / 1e3:6.0f} k parameters"
            print(f"{member.family}-{member.seed:<4} {size}  control {100 * member.control_score:.2f} %")
        print(f"Written to {out}; train an agent on it with `rlprune train-agent --models {PREFIX}{out}`")
    return 0
