"""`rlprune train`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import fields

from rlprune.agents.commands.options import Run, Section, check_resumed, command_line, folder_to_resume, parse
from rlprune.agents.runs.basesettings import BaseSettings
from rlprune.importing import print_json
from rlprune.record import RunFolder, free_folder, run_name, subject
from rlprune.training.settings import TrainSettings

COMMON = {"model", "data", "weights", "task", "normalise", "size", "channels", "teacher", "seed", "device", "epochs",
          "lr", "batch_size", "optimizer", "distillation", "amp", "patience", "out", "resume", "quiet",
          "json"}  # fmt: skip
NOT_OPTIONS = ("keep", "min_channels", "round_to")


def train(argv: Sequence[str], about: str, examples: str) -> int:
    """Train a network."""
    folder, start = folder_to_resume(argv), BaseSettings()
    if folder is not None and RunFolder(folder).exists():
        start = BaseSettings.from_record(RunFolder(folder).read(), folder)
        check_resumed(RunFolder(folder).record_file, [start], argv)
    sections = [
        Section(BaseSettings, default=start, skip=NOT_OPTIONS),
        Section(TrainSettings, default=start.training),
        Section(Run),
    ]
    given = parse("train", sections, argv, common=COMMON, about=about, examples=examples)
    training = TrainSettings(**{item.name: given[item.name] for item in fields(TrainSettings)})
    own = {item.name: given[item.name] for item in fields(BaseSettings) if item.name in given}
    settings = BaseSettings(**own, training=training)

    from rlprune.agents.runs.basetraining import train_base  # from here on it may take its time
    from rlprune.report.live import LiveRun
    from rlprune.report.summary import describe_scores

    name = run_name(*subject(settings.model, settings.data), "base", f"s{settings.seed}")
    run = RunFolder(given["out"] or free_folder("runs", name))
    quiet = given["quiet"] or int(os.environ.get("RANK", "0")) > 0
    with LiveRun(None, quiet=quiet) as live:
        record = train_base(settings, run, command=command_line(), resume=given["resume"], on_step=live.work)
    if given["json"]:
        print_json(record)
    elif not quiet:
        print(f"{describe_scores(record)}\nWeights in {run.model_file}")
    return 0
