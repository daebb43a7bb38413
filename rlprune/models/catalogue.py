"""The zoo's table of contents: models by name, each a factory of its class count and input channels."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable

from torch import nn

from rlprune.errors import check_count
from rlprune.registry import Registry
from rlprune.typed import checked

ModelFactory = Callable[..., nn.Module]
MODELS: Registry[ModelFactory] = Registry("model")


def register_model(name: str) -> Callable[[ModelFactory], ModelFactory]:
    """Decorator that enters `factory(num_classes=..., in_channels=...)` into the zoo under `name`."""
    return MODELS.register(name)


def list_models(pattern: str = "*") -> list[str]:
    """Names of the zoo's models that match a shell pattern, sorted.

    >>> list_models("resnet*")
    ['resnet110', 'resnet20', 'resnet32', 'resnet44', 'resnet56']
    """
    return [name for name in MODELS.names() if fnmatch.fnmatchcase(name, pattern)]


def create_model(name: str, num_classes: int = 10, in_channels: int | None = None) -> nn.Module:
    """Build a zoo model with fresh weights (drawn from torch's global generator).

    Args:
        name: One of `list_models()`.
        num_classes: Length of the output.
        in_channels: Channels of the images; None takes the model's own default (1 for LeNet-5, 3 elsewhere).

    Raises:
        UserError: The name is not in the zoo.
    """
    factory = MODELS.get(name)
    check_count("num_classes", checked(int, num_classes, "num_classes"))
    if in_channels is None:
        return factory(num_classes=num_classes)
    return factory(num_classes=num_classes, in_channels=in_channels)
