"""Weights from files, and the ones the project trains for itself."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from rlprune.data.splits import DataSplits
from rlprune.errors import UserError
from rlprune.files import read_tensors, write_tensors
from rlprune.seeding import derive

_WRAPPERS = ("state_dict", "model", "model_state_dict")
_RECIPE = 1  # part of the cache's file name: raise it when the training below changes


def load_weights(model: nn.Module, path: str | Path) -> dict[str, Any]:
    """Load a state dict into `model`, in place, and return what the file says about itself.

    Args:
        model: Takes the weights.
        path: A file with a state dict, or with a dict that has one under `state_dict` or `model` and, optionally,
            `meta`; or a name of torchvision's weights, e.g. `torchvision:ResNet50_Weights.DEFAULT`.
            A prefix `module.` on every name is dropped; missing `num_batches_tracked` are tolerated.

    Raises:
        UserError: The file is missing or damaged, holds anything but tensors and plain values, does not fit the
            model, or holds NaN or infinity.
    """
    if str(path).startswith("torchvision:"):
        content: Mapping[str, Any] = {"state_dict": _torchvision_weights(str(path).partition(":")[2])}
    else:
        content = read_tensors(Path(path))
    state, meta = _unwrap(content, path)
    own = model.state_dict()
    # torchvision's segmentation weights bring an auxiliary head for training, which models without one do not miss
    state = {name: value for name, value in state.items() if name in own or not name.startswith("aux_classifier.")}
    _check_names(state, own, path)
    for name, tensor in state.items():
        if tuple(tensor.shape) != tuple(own[name].shape):
            raise UserError(
                f"{path}: {name!r} has shape {tuple(tensor.shape)} and the model needs {tuple(own[name].shape)}; "
                "these weights belong to another model, or to other classes"
            )
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise UserError(f"{path}: {name!r} holds NaN or infinity; every weight must be finite")
    model.load_state_dict(state, strict=False)
    return meta


def default_weights(model: nn.Module, name: str, data: DataSplits) -> dict[str, Any]:
    """Give `model`, in place, the weights that come with the project, and return what is known about them.

    That is LeNet-5 on digits: trained on the train role alone when it is first asked for, in seconds, and cached under
    $RLPRUNE_CACHE or ~/.cache/rlprune.

    Args:
        model: As `resolve_model(name)` made it.
        name: Its specification.
        data: What it is for.

    Raises:
        UserError: There are none for this model and data.
    """
    if (name, data.name) != ("lenet5", "digits"):
        raise UserError(f"no weights come with the model {name!r} for the data {data.name!r}; give --weights FILE")
    train = data.train.fingerprint()
    path = cache_folder() / "weights" / f"lenet5-digits-{train}-{_RECIPE}.pt"
    if path.is_file():
        with contextlib.suppress(UserError):  # a damaged file is made again
            return load_weights(model, path)
    _train_lenet(model, data)
    meta = {"trained_on": data.name, "roles": ["train"], "train_fingerprint": train}
    with contextlib.suppress(UserError):  # a cache that cannot be written costs seconds, no more
        write_tensors(path, {"state_dict": model.state_dict(), "meta": meta})
    return meta


def cache_folder() -> Path:
    """$RLPRUNE_CACHE, or ~/.cache/rlprune."""
    return Path(os.environ.get("RLPRUNE_CACHE", "") or Path.home() / ".cache" / "rlprune")


def _train_lenet(model: nn.Module, data: DataSplits, epochs: int = 12) -> None:
    """Adam with a one-cycle schedule on shifted images, from weights drawn anew."""
    device = next(model.parameters()).device
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(0, "lenet5", "initial weights"))
        for module in model.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                module.reset_parameters()
    batch_size = 32
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    steps = epochs * -(-len(data.train) // batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=2e-3, total_steps=steps)
    model.train()
    for epoch in range(epochs):
        batches = data.train.batches(batch_size, seed=0, epoch=epoch, augment=True, device=device)
        for images, labels in batches:
            optimizer.zero_grad()
            F.cross_entropy(model(images), labels).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
    model.eval()


def _unwrap(content: Mapping[str, Any], path: str | Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    meta = content.get("meta", {})
    for key in _WRAPPERS:
        if isinstance(content.get(key), Mapping):
            content = content[key]
            break
    state = {str(name): value for name, value in content.items()}
    for name, value in state.items():
        if not isinstance(value, torch.Tensor):
            raise UserError(f"{path}: {name!r} is a {type(value).__name__}; a state dict holds tensors only")
    if not state:
        raise UserError(f"{path} holds no tensors; save model.state_dict()")
    if all(name.startswith("module.") for name in state):
        state = {name.removeprefix("module."): value for name, value in state.items()}
    return state, dict(meta) if isinstance(meta, Mapping) else {}


def _check_names(state: Mapping[str, Any], own: Mapping[str, Any], path: str | Path) -> None:
    missing = [name for name in own if name not in state and not name.endswith("num_batches_tracked")]
    if missing:
        raise UserError(
            f"{path} lacks {len(missing)} of the model's {len(own)} tensors, {missing[0]!r} first; "
            "these weights belong to another model"
        )
    extra = [name for name in state if name not in own]
    if extra:
        raise UserError(
            f"{path} holds {len(extra)} tensors that the model has not, {extra[0]!r} first; "
            "these weights belong to another model"
        )


def _torchvision_weights(name: str) -> Mapping[str, Any]:
    from torchvision import models

    try:
        weights = models.get_weight(name)
    except (ValueError, AttributeError, KeyError):
        raise UserError(f"torchvision has no weights {name!r}; they are called like ResNet50_Weights.DEFAULT") from None
    try:
        state: Mapping[str, Any] = weights.get_state_dict(progress=False, check_hash=True)
    except (OSError, RuntimeError) as error:
        reason = str(error).splitlines()[0][:120]
        raise UserError(
            f"cannot get torchvision's weights {name} ({reason}); download them and give the file"
        ) from None
    return state
