"""A model from a specification: the zoo's, torchvision's, or anyone's own function."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from rlprune.errors import UserError, check_known, first_line, needing, unknown_name
from rlprune.importing import is_known, said_aside, user_module
from rlprune.models.catalogue import MODELS
from rlprune.models.drawn import drawn
from rlprune.options import parse_options

WEIGHTS = (".safetensors", ".pt", ".pth", ".ckpt", ".bin", ".h5", ".onnx")
_FORMS = (
    "a model of the zoo, drawn:FAMILY-SEED, torchvision:NAME, timm:NAME, hf:FOLDER, package.module:name or file.py:name"
)


def resolve_model(spec: str, *, num_classes: int, in_channels: int) -> nn.Module:
    """Build the model that `spec` names, without trained weights.

    Args:
        spec: A name of the zoo (`resnet20`), with options where its factory has any (`unet:width=16,norm=False`);
            `drawn:FAMILY-SEED`, of the grammar in `drawn`; `torchvision:NAME`; `timm:NAME`; `hf:FOLDER`, a local folder
            of Hugging Face's, with its weights; `package.module:name` or `file.py:name`: a module, or a class or
            function that gives one and may take `num_classes` and `in_channels`.
        num_classes: Classes of the data.
        in_channels: Channels of the images.

    Raises:
        UserError: No such model, an import that fails, or a function that does not give a model.
    """
    head, colon, tail = spec.rpartition(":")
    if spec.endswith(".py"):
        raise UserError(f"{spec} is a file; say what of it is the model: {_listing(spec, user_module(spec))}")
    if not colon:
        if spec not in MODELS.names():
            raise _unknown(spec)
        return _call(MODELS.get(spec), spec, num_classes=num_classes, in_channels=in_channels)
    if head in MODELS.names():
        return _zoo_with_options(head, tail, num_classes, in_channels)
    home, _, name = spec.partition(":")
    if home in _HOMES:
        return _HOMES[home](name, num_classes, in_channels)
    if not head or not tail.isidentifier():
        raise UserError(f"model {spec!r} is not understood; give {_FORMS}")
    module = user_module(head)
    found = getattr(module, tail, None)
    if isinstance(found, nn.Module):
        return copy.deepcopy(found)
    if not callable(found):
        raise unknown_name(f"function in {head}", tail, _models_in(module) or ["(none)"])
    return _call(found, spec, num_classes=num_classes, in_channels=in_channels)


def _unknown(spec: str) -> UserError:
    """The error for a name that is none of the zoo's: it may be a file, or a model of torchvision's."""
    if Path(spec).suffix.lower() in WEIGHTS:
        return UserError(f"model {spec!r} is a file of weights: give it by --weights, and by --model {_FORMS}")
    from torchvision import models

    if spec in models.list_models():
        return UserError(
            f"unknown model {spec!r}; did you mean 'torchvision:{spec}'? known: {', '.join(MODELS.names())}"
        )
    return unknown_name("model", spec, MODELS.names())


def brings_weights(spec: str) -> bool:
    """Whether a specification is of a model with its weights: `hf:FOLDER`, or a module that lies in a file."""
    head, colon, tail = spec.rpartition(":")
    if spec.startswith("hf:") or not colon or head.partition(":")[0] in _HOMES or head in MODELS.names():
        return spec.startswith("hf:")
    module = user_module(head)
    return isinstance(getattr(module, tail, None), nn.Module)


def code_of(spec: str) -> str | None:
    """The file or module whose code would run if a model were built; None for networks of the zoo and of packages.

    A file that this user has run before is no news.
    """
    head, colon, _ = spec.rpartition(":")
    if spec.endswith(".py"):
        head = spec
    elif not colon or head in MODELS.names() or spec.partition(":")[0] in _HOMES:
        return None
    return None if head.endswith(".py") and is_known(Path(head)) else head


def _models_in(module: ModuleType) -> list[str]:
    """Names of a file's own modules, classes of modules, and functions; what it imports is left out."""
    own = [(name, value) for name, value in vars(module).items() if not name.startswith("_")]
    return [
        name
        for name, value in own
        if isinstance(value, nn.Module) or (callable(value) and getattr(value, "__module__", None) == module.__name__)
    ]


def _listing(spec: str, module: ModuleType) -> str:
    names = _models_in(module)
    return f"give {' or '.join(f'{spec}:{name}' for name in names)}" if names else "it holds no function and no module"


def _zoo_with_options(name: str, text: str, num_classes: int, in_channels: int) -> nn.Module:
    factory = MODELS.get(name)
    parameters = inspect.signature(factory).parameters
    defaults = {key: value.default for key, value in parameters.items() if key not in ("num_classes", "in_channels")}
    return factory(num_classes=num_classes, in_channels=in_channels, **parse_options(name, text, defaults))


def _torchvision(name: str, num_classes: int, in_channels: int) -> nn.Module:
    from torchvision import models

    check_known("torchvision model", name, models.list_models())
    if in_channels != 3:
        raise UserError(
            f"torchvision:{name} takes colour images (3 channels) and the data has {in_channels}; "
            "take a model of the zoo, or colour images"
        )
    parameters = inspect.signature(models.get_model_builder(name)).parameters
    options: dict[str, Any] = {"weights": None, "num_classes": num_classes}
    if "weights_backbone" in parameters:
        options["weights_backbone"] = None
    if name in ("googlenet", "inception_v3"):
        options["init_weights"] = False  # its truncated normal takes half a minute
    model: nn.Module = models.get_model(name, **options)
    return model


def import_timm() -> Any:
    """The package timm; raises UserError where it is not installed."""
    with needing("timm:NAME needs the package timm", "models"):
        import timm
    return timm


def _timm(name: str, num_classes: int, in_channels: int) -> nn.Module:
    timm = import_timm()
    if not timm.is_model(name):
        raise unknown_name("timm model", name, timm.list_models())
    model: nn.Module = timm.create_model(name, pretrained=False, num_classes=num_classes, in_chans=in_channels)
    return model


def _hugging_face(folder: str, num_classes: int, in_channels: int) -> nn.Module:
    """An image classifier of transformers in a local folder, with its weights and its own number of classes."""
    if not (Path(folder) / "config.json").is_file():
        raise UserError(
            f"hf:{folder}: there is no {Path(folder) / 'config.json'}; give a local folder of Hugging Face's"
        )
    with needing("hf:FOLDER needs the package transformers", "models"):
        from transformers import AutoModelForImageClassification
        from transformers.utils import logging as said
    shown = said.is_progress_bar_enabled()
    said.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        model: nn.Module = AutoModelForImageClassification.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # whatever a configuration nobody here has seen brings about
        raise UserError(f"hf:{folder} is no image classifier of transformers ({first_line(error)})") from None
    finally:
        if shown:
            said.enable_progress_bar()  # type: ignore[no-untyped-call]
    return model


_HOMES: dict[str, Callable[[str, int, int], nn.Module]] = {
    "drawn": drawn,
    "torchvision": _torchvision,
    "timm": _timm,
    "hf": _hugging_face,
}


def _call(function: Callable[..., Any], spec: str, *, num_classes: int, in_channels: int) -> nn.Module:
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):
        parameters = {}  # type: ignore[assignment]
    given = {"num_classes": num_classes, "in_channels": in_channels}
    options = {key: value for key, value in given.items() if key in parameters}
    try:
        with said_aside():
            model = function(**options)
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        raise UserError(
            f"{spec} failed when it was called with {options} ({type(error).__name__}: {first_line(error)}); "
            "it must return a model for these arguments"
        ) from None
    if not isinstance(model, nn.Module):
        raise UserError(f"{spec} returned a {type(model).__name__}; it must return a torch.nn.Module")
    return model
