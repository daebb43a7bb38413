"""Train a network on the train role alone, from scratch or from weights, pruned ones too.

A base network trained here says what it has seen, so that a later pruning takes control images that it has not.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

import torch

from rlprune.artifact import is_pruned, save_pruned
from rlprune.data import DataSplits
from rlprune.devices import checked_device
from rlprune.errors import UserError
from rlprune.files import write_tensors
from rlprune.models import resolve_model
from rlprune.record import RunFolder, versions
from rlprune.recovery import TrainSettings, train
from rlprune.scoring.evaluation import Evaluator, Ledger
from rlprune.seeding import derive
from rlprune.spec import ProblemSpec, load_network, weights_meta
from rlprune.tasks import get_task
from rlprune.training.distributed import World

OnStep = Callable[[str, float, float], None]
SHARED = {item.name for item in fields(ProblemSpec)}


@dataclass(frozen=True)
class BaseSettings:
    """What is trained, on what, and how, in plain values.

    Attributes:
        model: Zoo name, `torchvision:NAME`, `package.module:function` or `file.py:function`.
        data: `digits`, an `.npz` file, a folder, or `torchvision:NAME`.
        weights: File to go on from: the network's weights, or the `model.pt` of a pruning; None starts at random.
        teacher: File of the unpruned network's weights, which `distillation` imitates.
        task: What the network does, where the data's own task needs an option, such as `detection:metric=map50`.
        root: Folder that `data` is relative to, or where torchvision's sets lie.
        seed: Of everything random: cut of the data, initial weights, order, augmentation.
        device: Where to compute, such as `cpu` or `cuda`.
        control_from: `train` keeps training images aside for control even where the data has a `val` folder, which is
            then left out: for data whose `val` is tiny. None takes `val` where there is one beside a test set.
        control_size: Images for control; None chooses.
        calibration_size: Training images kept aside for calibration; None chooses.
        size: Side in pixels that images in folders are brought to; None chooses.
        channels: Channels that images in folders are read with, 1 (grey) or 3 (colour); None keeps what they are.
        normalise: Normalisation of images: `imagenet`, `none` or `MEAN:STD`; the weights remember it for `prune`.
        training: How to train.
    """

    model: str = "lenet5"
    data: str = "digits"
    weights: str | None = None
    teacher: str | None = None
    task: str | None = None
    root: str | None = None
    seed: int = 0
    device: str = "cpu"
    control_from: str | None = None
    control_size: int | None = None
    calibration_size: int | None = None
    size: int | None = None
    channels: int | None = None
    normalise: str | None = None
    training: TrainSettings = field(default_factory=lambda: TrainSettings(epochs=200.0, lr=0.1, nesterov=True))

    def __post_init__(self) -> None:
        if bool(self.training.distillation) != (self.teacher is not None):
            raise UserError(
                f"distillation is {self.training.distillation} and the teacher is {self.teacher}: "
                "give both (--teacher FILE --distillation 0.7), or neither"
            )

    @property
    def problem(self) -> ProblemSpec:
        """Network and data."""
        return ProblemSpec(**{item.name: getattr(self, item.name) for item in fields(self) if item.name in SHARED})

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
    data = settings.problem.splits()
    model, teacher = _networks(settings, data, device)
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
        teacher=teacher,
        monitor=(lambda network: evaluator.score(network, "control").value) if patience else None,
        checkpoint=folder.checkpoint_file,
        on_step=lambda done: on_step("training", done, 1.0) if on_step is not None else None,
        device=device,
    )
    model.eval()
    test = "whole_test" if settings.weights is None else "test"  # control may have been cut from it
    scores = {role: evaluator.score(model, role) for role in ("control", test)}
    record |= {
        "status": "finished",
        "losses": report.losses,
        "images_trained": report.images,
        **scores["control"].figures("control"),
        **scores[test].figures("test"),
        "time": {"training_s": time.monotonic() - started},
    }
    if world.first:
        _save(settings, folder, model, data, test_score=scores[test].value)
        folder.write(record)
        folder.drop_checkpoint()
    return record


def _networks(
    settings: BaseSettings, data: DataSplits, device: torch.device
) -> tuple[torch.nn.Module, torch.nn.Module | None]:
    """What is trained, and what it imitates."""
    teacher = None
    if settings.teacher is not None:
        teacher = load_network(replace(settings.problem, weights=settings.teacher), data)
    if settings.weights is not None:
        return load_network(settings.problem, data), teacher
    return fresh_model(settings.model, data, settings.seed).to(device), teacher


def _save(
    settings: BaseSettings, folder: RunFolder, model: torch.nn.Module, data: DataSplits, *, test_score: float
) -> None:
    """Write `model.pt`. What the network has seen is said where it is known: nobody knows of weights without a word."""
    meta: dict[str, Any] = {"model": settings.model, "trained_on": data.name, "seed": settings.seed}
    before = {} if settings.weights is None else weights_meta(settings.weights)
    if settings.weights is None or before.get("train_fingerprint") == data.train.fingerprint():
        meta |= {
            "roles": ["train"],
            "train_fingerprint": data.train.fingerprint(),
            "control_from": settings.control_from,
            "control_size": settings.control_size or before.get("control_size"),
            "calibration_size": settings.calibration_size or before.get("calibration_size"),
        }
    meta["test_score"] = test_score
    normalise = settings.normalise or before.get("normalise")
    if normalise is not None:
        meta["normalise"] = normalise
    if settings.weights is not None and is_pruned(settings.weights):
        save_pruned(folder.model_file, fresh_model(settings.model, data, settings.seed), model, {**before, **meta})
        return
    weights = {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}
    write_tensors(folder.model_file, {"state_dict": weights, "meta": meta})


def fresh_model(spec: str, data: DataSplits, seed: int) -> torch.nn.Module:
    """The untrained network of `spec`, its weights drawn from the seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(seed, "initial weights"))
        return resolve_model(spec, num_classes=len(data.classes), in_channels=data.input_shape[0])
