"""Train a base network from scratch, on the train role alone, so that a later pruning knows what it has seen."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from rlprune.data import DataSplits, load_data
from rlprune.errors import UserError
from rlprune.evaluation import Evaluator, Ledger
from rlprune.files import write_tensors
from rlprune.models import resolve_model
from rlprune.problem import checked_device
from rlprune.record import RunFolder, versions
from rlprune.recovery import TrainSettings, train
from rlprune.recovery.distributed import World
from rlprune.seeding import derive
from rlprune.tasks import get_task

OnStep = Callable[[str, float, float], None]


@dataclass(frozen=True)
class BaseSettings:
    """What is trained, on what, and how, in plain values.

    Attributes:
        model: Zoo name, `torchvision:NAME`, `package.module:function` or `file.py:function`.
        data: `digits`, an `.npz` file, a folder, or `torchvision:NAME`.
        task: What the network does, where the data's own task needs an option, such as `detection:metric=map50`.
        root: Folder that `data` is relative to, or where torchvision's sets lie.
        seed: Of everything random: cut of the data, initial weights, order, augmentation.
        device: Where to compute, such as `cpu` or `cuda`.
        control_from: `train` keeps training images aside for control even where the data has a `val` folder, which is
            then left out: for data whose `val` is tiny. None takes `val` where there is one beside a test set.
        control_size: Images for control; None chooses.
        calibration_size: Training images kept aside for calibration; None chooses.
        training: How to train.
    """

    model: str = "lenet5"
    data: str = "digits"
    task: str | None = None
    root: str | None = None
    seed: int = 0
    device: str = "cpu"
    control_from: str | None = None
    control_size: int | None = None
    calibration_size: int | None = None
    training: TrainSettings = field(default_factory=lambda: TrainSettings(epochs=200.0, lr=0.1, nesterov=True))

    def __post_init__(self) -> None:
        if self.training.distillation:
            raise UserError(
                f"distillation is {self.training.distillation}; a base network has no teacher, so it must be 0"
            )

    def to_json(self) -> dict[str, Any]:
        """Plain values only."""
        return {**asdict(self), "training": {**asdict(self.training), "milestones": list(self.training.milestones)}}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> BaseSettings:
        """The settings that `to_json` wrote."""
        training = dict(content["training"])
        training["milestones"] = tuple(training["milestones"])
        return cls(**{**content, "training": TrainSettings(**training)})


def train_base(
    settings: BaseSettings,
    folder: RunFolder,
    *,
    command: str = "",
    resume: bool = False,
    on_step: OnStep | None = None,
) -> dict[str, Any]:
    """Train a network and write `model.pt` (`state_dict` and `meta`) and `record.json` into a folder.

    Killed at any moment, `resume` goes on from the last whole epoch, on a CPU to the same bits. Under `torchrun` the
    processes share each batch, and the first one writes the files.

    Args:
        settings: What to do.
        folder: Where to write. A folder that holds a run already is an error unless `resume` is set.
        command: The command line, for the record.
        resume: Go on with the training in `folder`.
        on_step: Told what goes on, with what is done and what there is to do.

    Returns:
        The record.

    Raises:
        UserError: For anything the user can mend.
    """
    if folder.exists():
        previous = folder.read()
        if not resume:
            raise UserError(
                f"{folder.path} holds a run already; add --resume to go on with it, or choose another --out"
            )
        if "training" not in previous["settings"]:
            raise UserError(f"{folder.path} holds a pruning, not a training; choose another --out")
        if BaseSettings.from_json(previous["settings"]) != settings:
            raise UserError(f"the run in {folder.path} was started with other settings; --resume takes none of its own")
        if previous["status"] == "finished":
            return previous
    world = World.current()
    device = checked_device(settings.device)
    data = load_data(
        settings.data,
        root=settings.root,
        seed=settings.seed,
        control_from=settings.control_from,
        control_size=settings.control_size,
        calibration_size=settings.calibration_size,
    )
    model = fresh_model(settings.model, data, settings.seed).to(device)
    task, ledger, started = get_task(settings.task or data.task), Ledger(), time.monotonic()
    evaluator = Evaluator(task, data, device=str(device), ledger=ledger)
    record: dict[str, Any] = {
        "status": "running",
        "model": settings.model,
        "seed": settings.seed,
        "settings": settings.to_json(),
        "data": data.to_json(),
        "command": command,
        "versions": versions(),
    }
    world.barrier()  # all have seen whether there was a run
    if world.first:
        folder.clear_remains()
        folder.write(record)
    world.barrier()  # nobody makes a checkpoint in a folder that is not there
    patience = settings.training.patience
    report = train(
        model,
        task,
        data.train,
        settings.training,
        seed=derive(settings.seed, "base training"),
        monitor=(lambda network: evaluator.score(network, "control").value) if patience else None,
        checkpoint=folder.checkpoint_file,
        on_step=lambda done: on_step("training", done, 1.0) if on_step is not None else None,
        device=device,
    )
    model.eval()
    scores = {role: evaluator.score(model, role) for role in ("control", "whole_test")}
    record |= {
        "status": "finished",
        "losses": report.losses,
        "images_trained": report.images,
        "metric": scores["control"].metric,
        "control_score": scores["control"].value,
        "test_score": scores["whole_test"].value,
        "test_interval": list(scores["whole_test"].interval()),
        "time": {"training_s": time.monotonic() - started},
    }
    meta = {
        "model": settings.model,
        "trained_on": data.name,
        "roles": ["train"],
        "train_fingerprint": data.train.fingerprint(),
        "seed": settings.seed,
        "control_from": settings.control_from,
        "control_size": settings.control_size,
        "calibration_size": settings.calibration_size,
        "test_score": scores["whole_test"].value,
    }
    if world.first:
        weights = {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}
        write_tensors(folder.model_file, {"state_dict": weights, "meta": meta})
        folder.write(record)
        folder.drop_checkpoint()
    return record


def fresh_model(spec: str, data: DataSplits, seed: int) -> torch.nn.Module:
    """The untrained network of `spec`, its weights drawn from the seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(seed, "initial weights"))
        return resolve_model(spec, num_classes=len(data.classes), in_channels=data.input_shape[0])
