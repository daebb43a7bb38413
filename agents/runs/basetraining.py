"""Train a network on the train role alone, from scratch or from weights, pruned ones too.

A base network trained here says what it has seen, so that a later pruning takes control images that it has not.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from rlprune.agents.runs.basesettings import BaseSettings
from rlprune.artifact import is_pruned, save_pruned
from rlprune.data import DataSplits
from rlprune.devices import checked_device
from rlprune.errors import UserError
from rlprune.files import write_tensors
from rlprune.locking import locked
from rlprune.models import resolve_model
from rlprune.record import RunFolder, versions
from rlprune.scoring.evaluation import Evaluator, Ledger, check_fits, check_loss
from rlprune.seeding import derive
from rlprune.spec import load_network, weights_meta
from rlprune.tasks import get_task
from rlprune.tasks.base import own_class
from rlprune.training.distributed import World
from rlprune.training.loop import train

OnStep = Callable[[str, float, float], None]


def train_base(
    settings: BaseSettings, folder: RunFolder, *, command: str = "", resume: bool = False, on_step: OnStep | None = None
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
    world = World.current()
    with locked(folder.path, "record.json") if world.first else contextlib.nullcontext():
        previous = _finished(settings, folder, resume)
        if previous is not None:
            if world.first:
                folder.clear_state()
            return previous
        return _train_base(settings, folder, world, command, on_step)


def _train_base(
    settings: BaseSettings, folder: RunFolder, world: World, command: str, on_step: OnStep | None
) -> dict[str, Any]:
    """Train, and write what comes of it."""
    model, teacher, evaluator = ready(settings)
    data = evaluator.data
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
    record |= _trained(settings, folder, model, teacher, evaluator, on_step)
    if world.first:
        _save(settings, folder, model, data, test_score=record["test_score"])
        folder.write(record)
        folder.clear_state()
    return record


def ready(settings: BaseSettings) -> tuple[torch.nn.Module, torch.nn.Module | None, Evaluator]:
    """The network, its teacher, and what scores it; raises UserError for what the first step would fail of."""
    device = checked_device(settings.device)
    data = settings.problem.splits()
    model, teacher = _networks(settings, data, device)
    evaluator = Evaluator(get_task(settings.task or data.task), data, device=str(device), ledger=Ledger())
    check_fits(model, data, evaluator.task, device)
    check_loss(model, data.train, evaluator.task)
    if own_class(evaluator.task) is not None:  # what is wrong with it shows now and not after the training
        evaluator.score(model, "control")
    return model, teacher, evaluator


def _finished(settings: BaseSettings, folder: RunFolder, resume: bool) -> dict[str, Any] | None:
    """The record of a training that is over; None to begin, or to go on where `resume` allows it."""
    if not folder.exists():
        return None
    previous = folder.read()
    if not resume:
        raise UserError(f"{folder.path} holds a run already; add --resume to go on with it, or choose another --out")
    if BaseSettings.from_record(previous, folder.path) != settings:
        raise UserError(f"the run in {folder.path} was started with other settings; --resume takes none of its own")
    return previous if previous["status"] == "finished" else None


def _trained(
    settings: BaseSettings,
    folder: RunFolder,
    model: torch.nn.Module,
    teacher: torch.nn.Module | None,
    evaluator: Evaluator,
    on_step: OnStep | None,
) -> dict[str, Any]:
    """Train the model in place; what the record says of it."""
    started = time.monotonic()
    report = train(
        model,
        evaluator.task,
        evaluator.data.split("train"),
        settings.training,
        seed=derive(settings.seed, "base training"),
        teacher=teacher,
        monitor=(lambda network: evaluator.score(network, "control").value) if settings.training.patience else None,
        checkpoint=folder.checkpoint_file,
        on_step=lambda done: on_step("training", done, 1.0) if on_step is not None else None,
        device=evaluator.device,
    )
    model.eval()
    test = "whole_test" if settings.weights is None else "test"  # control may have been cut from it
    return {
        "status": "finished",
        "losses": report.losses,
        "images_trained": report.images,
        **evaluator.score(model, "control").figures("control"),
        **evaluator.score(model, test).figures("test"),
        "time": {"training_s": time.monotonic() - started},
    }


def _networks(
    settings: BaseSettings, data: DataSplits, device: torch.device
) -> tuple[torch.nn.Module, torch.nn.Module | None]:
    """What is trained, and what it imitates."""
    teacher = None
    if settings.teacher is not None:
        teacher = load_network(replace(settings.problem, weights=settings.teacher), data)
    if settings.weights is not None:
        return load_network(settings.problem, data), teacher
    return _fresh(settings, data).to(device), teacher


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
        save_pruned(folder.model_file, _fresh(settings, data), model, {**before, **meta})
        return
    weights = {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}
    write_tensors(folder.model_file, {"state_dict": weights, "meta": meta})


def _fresh(settings: BaseSettings, data: DataSplits) -> torch.nn.Module:
    return fresh_model(settings.model, data, derive(settings.seed, "initial weights"))


def fresh_model(spec: str, data: DataSplits, seed: int) -> torch.nn.Module:
    """The untrained network of `spec`, its weights drawn from the seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return resolve_model(spec, num_classes=len(data.classes), in_channels=data.input_shape[0])
