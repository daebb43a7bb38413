"""What a task is: how a model is called on a batch, what its loss is, and how well it does."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Collection, Iterable
from typing import Any, Protocol

import torch
from torch import nn

from rlprune.errors import UserError, unknown_name
from rlprune.options import parse_options
from rlprune.registry import Registry
from rlprune.tasks.score import Score

# (inputs, targets) of one batch; what they are is between the data and the task. Classification: float32 (N, C, H, W)
# and int64 (N,). Segmentation: float32 (N, C, H, W) and int64 (N, H, W). Detection: two lists of length N.
Batch = tuple[Any, Any]


class Task(Protocol):
    """Everything the evaluator, the trainer and the criteria need, so that none of them knows what is predicted."""

    @property
    def name(self) -> str:
        """Name in the registry."""
        ...

    @property
    def metric(self) -> str:
        """What `score` measures."""
        ...

    @property
    def distillable(self) -> bool:
        """Whether `rows` gives anything: a student can imitate a teacher."""
        ...

    def size(self, batch: Batch) -> int:
        """Number of images in a batch."""
        ...

    def inputs(self, batch: Batch) -> tuple[Any, ...]:
        """Positional arguments for calling a model in eval mode on a batch."""
        ...

    def outputs(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """Class logits, dimension 1 the classes.

        Raises:
            UserError: The task has no such thing (detection).
        """
        ...

    def rows(self, output: Any, batch: Batch) -> torch.Tensor:
        """Of what a model returned the class logits of everything that counts, (images or pixels, classes).

        It is what a student imitates of its teacher, and what label smoothing smooths.

        Raises:
            UserError: The task has no such thing (detection).
        """
        ...

    def loss(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """Mean training loss over the batch, a scalar that can be differentiated."""
        ...

    def score(self, model: nn.Module, batches: Iterable[Batch]) -> Score:
        """Score of a model in eval mode; the caller sets the mode and turns gradients off.

        Raises:
            UserError: There is no batch, or an output is NaN, infinite, or of the wrong shape.
        """
        ...


# Every task is a frozen dataclass whose fields are its options.
TASKS: Registry[Callable[..., Task]] = Registry("task")


def get_task(spec: str) -> Task:
    """The task called `spec`, with options where it has any: `segmentation:objective=ce+dice,metric=pixel_accuracy`.

    Raises:
        UserError: Unknown task, option, or value of an option.
    """
    name, colon, text = spec.partition(":")
    factory = TASKS.get(name)
    if not colon:
        return factory()
    defaults = {key: value.default for key, value in inspect.signature(factory).parameters.items()}
    return factory(**parse_options(name, text, defaults))


def list_tasks() -> list[str]:
    """Names of the tasks there are."""
    return TASKS.names()


def single_output(output: Any) -> torch.Tensor:
    """The logits of a model that returns a tensor, a dict with `out` or `logits`, or a tuple that starts with them."""
    if isinstance(output, torch.Tensor):
        return output
    if isinstance(output, dict):
        for key in ("out", "logits"):
            if isinstance(output.get(key), torch.Tensor):
                value: torch.Tensor = output[key]
                return value
    if isinstance(output, (tuple, list)) and output and isinstance(output[0], torch.Tensor):
        return output[0]
    if isinstance(getattr(output, "logits", None), torch.Tensor):
        logits: torch.Tensor = output.logits
        return logits
    raise UserError(
        f"the model returned a {type(output).__name__}; expected a tensor of logits, a dict with 'out' or 'logits', "
        "or a tuple that starts with them"
    )


def check_option(what: str, value: str, known: Collection[str]) -> None:
    """Raise UserError with the closest known value if `value` is not one of them."""
    if value not in known:
        raise unknown_name(what, value, known)


def likelihood(loss: float) -> float:
    """A loss as a score in [0, 1], higher is better: exp(-loss), the geometric mean of what is given to the truth."""
    return math.exp(-max(loss, 0.0))


def check_finite_outputs(output: torch.Tensor) -> None:
    """Raise UserError if a model's output holds NaN or infinity."""
    if not bool(torch.isfinite(output).all()):
        raise UserError(
            "the model's output holds NaN or infinity; every output must be finite: "
            "check the weights and the scale of the images"
        )
