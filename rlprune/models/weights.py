"""Weights from files, and the ones the project trains for itself."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from rlprune.data.splits import DataSplits
from rlprune.errors import UserError, first_line, reading
from rlprune.files import cache_folder, write_tensors
from rlprune.models.reading import constants, fitted, normalisation_beside, read_weights
from rlprune.models.resolving import import_timm
from rlprune.seeding import derive

_RECIPE = 1  # part of the cache's file name: raise it when the training below changes


def load_weights(model: nn.Module, path: str | Path) -> dict[str, Any]:
    """Load a state dict into `model`, in place, and return what the file says about itself.

    Args:
        model: Takes the weights.
        path: A file as of `read_weights`, a name of torchvision's weights (`torchvision:ResNet50_Weights.DEFAULT`), or
            of timm's (`timm:resnet18.a1_in1k`). Names are brought to the model's own as `fitted` says; missing
            `num_batches_tracked` are tolerated.

    Raises:
        UserError: The file is missing, damaged or of another kind, does not fit the model, or holds NaN or infinity.
    """
    home, colon, name = str(path).partition(":")
    with reading(path, "a file of weights"):
        found, meta = (_PUBLISHED[home](name), {}) if colon and home in _PUBLISHED else read_weights(path)
        _put(model, found, path)
    return meta


def _put(model: nn.Module, found: dict[str, Any], path: str | Path) -> None:
    own = model.state_dict()
    for name, tensor in found.items():
        if tensor.is_quantized or tensor.is_meta or tensor.layout != torch.strided:
            kind = "quantized" if tensor.is_quantized else "without values" if tensor.is_meta else "sparse"
            raise UserError(f"{path}: {name!r} is {kind}; save the weights as they were trained, in plain tensors")
    state = fitted(found, own)
    _check_names(state, own, path)
    for name, tensor in state.items():
        if tuple(tensor.shape) != tuple(own[name].shape):
            raise UserError(
                f"{path}: {name!r} has shape {tuple(tensor.shape)} and the model needs {tuple(own[name].shape)}; "
                "these weights belong to another model, or to other classes"
            )
        if tensor.is_floating_point() != own[name].is_floating_point() or tensor.is_complex():
            wanted = own[name].dtype
            raise UserError(f"{path}: {name!r} is {tensor.dtype}, for {wanted}; save the weights as they were trained")
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise UserError(f"{path}: {name!r} holds NaN or infinity; every weight must be finite")
    model.load_state_dict(state, strict=False)


def weights_normalisation(model: str, weights: str | None) -> str:
    """How images must be normalised for weights, as they say themselves: what `normalise=from-weights` stands for.

    Args:
        model: The network's specification.
        weights: The file or name; None for a model that brings its own.

    Raises:
        UserError: They say nothing.
    """
    home, _, name = (weights or "").partition(":")
    found = None
    if home == "torchvision":
        transforms = _torchvision_entry(name).transforms()
        found = constants(transforms.mean, transforms.std) if hasattr(transforms, "mean") else None
    elif home == "timm":
        found = _timm_normalisation(name)
    elif weights is not None:
        found = read_weights(weights)[1].get("normalise") or normalisation_beside(Path(weights))
    elif model.startswith("hf:"):
        found = normalisation_beside(Path(model.partition(":")[2]) / "config.json")
    if found is None and model.startswith("timm:"):  # a file that says nothing is as timm's own
        found = _timm_normalisation(model.partition(":")[2])
    if found is None:
        said = f"{weights or model} says nothing of how images are normalised"
        raise UserError(f"{said}; give normalise imagenet, none, or MEAN:STD as in 0.5:0.25")
    return str(found)


def _timm_normalisation(name: str) -> str | None:
    cfg = import_timm().get_pretrained_cfg(name)
    return constants(cfg.mean, cfg.std) if cfg is not None else None


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


def _torchvision_entry(name: str) -> Any:
    from torchvision import models

    try:
        return models.get_weight(name)
    except (ValueError, AttributeError, KeyError):
        raise UserError(f"torchvision has no weights {name!r}; they are called like ResNet50_Weights.DEFAULT") from None


def _torchvision_weights(name: str) -> dict[str, Any]:
    weights = _torchvision_entry(name)
    return _fetched(f"torchvision's weights {name}", lambda: weights.get_state_dict(progress=False, check_hash=True))


def _timm_weights(name: str) -> dict[str, Any]:
    timm = import_timm()
    return _fetched(f"timm's weights {name}", lambda: timm.create_model(name, pretrained=True).state_dict())


def _fetched(what: str, fetch: Callable[[], Any]) -> dict[str, Any]:
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # torch's hub announces a download there
            return dict(fetch())
    except Exception as error:  # whatever a download or a hub's client raises
        raise UserError(f"cannot get {what} ({first_line(error, 120)}); download them and give the file") from None


_PUBLISHED: dict[str, Callable[[str], dict[str, Any]]] = {"torchvision": _torchvision_weights, "timm": _timm_weights}
