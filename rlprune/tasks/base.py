"""What a task is: how a model is called on a batch, what its loss is, and how well it does."""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn
from torch.utils._pytree import tree_leaves, tree_map

from rlprune.errors import UserError, calling, guarding
from rlprune.importing import file_and_name, object_in
from rlprune.options import parse_options
from rlprune.registry import Registry
from rlprune.tasks.parts import part, tensors
from rlprune.tasks.score import Score

# (inputs, targets) of one batch; what they are is between the data and the task. Classification: float32 (N, C, H, W)
# and int64 (N,). Segmentation: float32 (N, C, H, W) and int64 (N, H, W). Detection: two lists of length N.
Batch = tuple[Any, Any]


def cut(batch: Batch, where: slice) -> Batch:
    """Some of the examples of a batch: entries of a detector's lists, rows of all other tensors."""
    inputs, targets = batch
    if isinstance(targets, (list, tuple)) and targets and not isinstance(targets[0], torch.Tensor):
        return inputs[where], targets[where]
    rows = partial(tree_map, lambda leaf: leaf[where] if isinstance(leaf, torch.Tensor) and leaf.ndim else leaf)
    return rows(inputs), rows(targets)


class OutputTask:
    """A task that compares what a model returns with targets, example by example; the base of all tasks.

    It holds all that the evaluator, the trainer and the criteria need, so that none of them knows what is predicted.
    Two methods make a task: `loss_of`, the loss of a batch, and `examples`, numbers for each example, of which
    `measure` (their mean, unless overridden) makes the score of any set of examples, and so its interval. `output`
    is what both get of what the model returned.

    Attributes:
        name: Name in the registry.
        metric: What `score` measures.
        distillable: Whether `rows` gives anything: a student can imitate a teacher.
        percent: Whether scores are fractions in [0, 1].
        model_losses: Whether losses are the model's own; one that gives none can be pruned, and not trained.
        draws: Of the bootstrap that gives the interval.
        single: Whether it looks at one output of several; where they are chosen on purpose, nobody need be warned.
    """

    name: ClassVar[str] = "own"
    distillable: ClassVar[bool] = False
    model_losses: ClassVar[bool] = False
    metric: str = "score"
    percent: bool = True
    draws: ClassVar[int] = 1000
    single: ClassVar[bool] = False

    def loss_of(self, output: Any, targets: Any) -> torch.Tensor:
        """Mean training loss, a scalar that can be differentiated."""
        raise UserError(f"the task {type(self).__name__} needs a method loss_of(output, targets)")

    def examples(self, output: Any, targets: Any) -> Any:
        """Numbers of every example, (n,) or (n, k): a tensor or an array."""
        raise UserError(f"the task {type(self).__name__} needs a method examples(output, targets)")

    def together(self, table: np.ndarray) -> np.ndarray:
        """What `measure` gets, from what `examples` gave for all examples at once, where one needs the others."""
        return table

    def measure(self, table: np.ndarray) -> float:
        """The score of some examples, higher is better, from what `examples` gave for them."""
        return float(table.mean())

    def output(self, returned: Any, targets: Any) -> Any:
        """What is looked at of what the model returned: its one tensor."""
        return single_output(returned)

    def size(self, batch: Batch) -> int:
        """Number of examples in a batch."""
        leaves = [leaf for leaf in tree_leaves(batch[1]) if isinstance(leaf, torch.Tensor) and leaf.ndim]
        return len(leaves[0]) if leaves else len(tree_leaves(batch[0])[0])

    def inputs(self, batch: Batch) -> tuple[Any, ...]:
        """The inputs: a tuple of them as it is, anything else as the only one."""
        return batch[0] if isinstance(batch[0], tuple) else (batch[0],)

    def outputs(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """As `rows`, of what the model returns for a batch."""
        return self.rows(model(*self.inputs(batch)) if self.distillable else None, batch)

    def rows(self, output: Any, batch: Batch) -> torch.Tensor:
        """Of what a model returned the class logits of everything that counts, (images or pixels, classes).

        It is what a student imitates of its teacher, and what label smoothing smooths.

        Raises:
            UserError: The task has no such thing, as here.
        """
        raise UserError(
            f"{self.name} has no class logits to imitate or to smooth; leave distillation and smoothing out"
        )

    def loss(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """`loss_of` of what the model returns."""
        return self.checked_loss(self.output(model(*self.inputs(batch)), batch[1]), batch[1])

    @property
    def trains(self) -> bool:
        """Whether it has a loss; a task that only scores has none."""
        kind = type(self)
        return kind.loss_of is not OutputTask.loss_of or kind.loss is not OutputTask.loss

    def checked_loss(self, output: Any, targets: Any) -> torch.Tensor:
        """`loss_of`; raises UserError if it gives anything but one number."""
        found = self.loss_of(output, targets)
        if not isinstance(found, torch.Tensor) or found.ndim:
            what = f"a tensor of shape {tuple(found.shape)}" if isinstance(found, torch.Tensor) else repr(found)
            raise UserError(f"loss_of of the task {self.name} gave {what}; it must give one number, a tensor")
        return found

    def score(self, model: nn.Module, batches: Iterable[Batch]) -> Score:
        """`measure` over all examples; the interval comes from drawing them anew.

        The caller puts the model into eval mode and turns gradients off.

        Raises:
            UserError: There is no batch, or an output is NaN, infinite, or of the wrong shape.
        """
        tables: list[np.ndarray] = []
        loss = 0.0
        for batch in batches:
            output = self.output(model(*self.inputs(batch)), batch[1])
            for leaf in tree_leaves(output):
                check_finite_outputs(leaf)
            found = self.examples(output, batch[1])
            found = found.detach().double().cpu().numpy() if isinstance(found, torch.Tensor) else found
            tables.append(np.asarray(found, dtype=np.float64))
            loss += float(self.checked_loss(output, batch[1])) * len(tables[-1])
        if not sum(map(len, tables)):
            raise UserError("there are no examples to score; give the split at least one")
        seen, table = sum(map(len, tables)), self.together(np.concatenate(tables))
        resample = partial(resampled, self.measure, table)
        found = Score(float(self.measure(table)), len(table), self.metric, loss / seen, percent=self.percent)
        return replace(found, resample=resample, draws=self.draws)

    def prepared(self, score: Callable[[Task], Score]) -> Task:
        """The task for one problem; `score` scores the unpruned network on the control split by a task."""
        return self


Task = OutputTask
"""What annotations call it: a task from a name or from an object (`as_task`) is always one."""


def resampled(measure: Callable[[np.ndarray], float], table: np.ndarray, index: np.ndarray) -> float:
    """The score of some examples, of which a table says what there is to know."""
    return measure(table[index])


# Every task is a frozen dataclass whose fields are its options.
_OURS = ("rlprune.", "builtins", "typing")
TASKS: Registry[Callable[..., Task]] = Registry("task")


def get_task(spec: str) -> Task:
    """The task called `spec`, with options where it has any: `segmentation:objective=ce+dice,metric=pixel_accuracy`.

    `mytask.py:Task` is a class of one's own in a file, or a function or object there. What it lacks of a task's methods
    it gets from `OutputTask`.

    Raises:
        UserError: Unknown task, option, or value of an option.
    """
    name, colon, text = str(spec).partition(":")
    if name not in TASKS.names() and (own := file_and_name(str(spec))) is not None:
        return _own(spec, *own)
    factory = TASKS.get(name)
    if hasattr(factory, "parse"):  # options that are tasks themselves
        found: Task = factory.parse(text)
        return found
    if not colon:
        return factory()
    defaults = {key: value.default for key, value in inspect.signature(factory).parameters.items()}
    return factory(**parse_options(name, text, defaults))


def _own(spec: str, file: str, name: str) -> Task:
    """A class in a file, what a function there gives, or an object."""
    found = object_in(file, name, "task")
    if callable(found):
        with guarding(f"{spec} failed when it was made", "it takes no argument"):
            found = found()
    return as_task(found)


def as_task(task: Any) -> Task:
    """A task from its name, or from an object; one that is no `OutputTask` is completed by what it lacks."""
    if isinstance(task, str):
        return get_task(task)
    if isinstance(task, OutputTask):
        return task
    if isinstance(task, type) or not (hasattr(task, "examples") or hasattr(task, "score")):
        what = f"the class {task.__name__}" if isinstance(task, type) else f"a {type(task).__name__}"
        raise UserError(
            f"task is {what}; it must be a name, or an object, which needs a method examples(output, targets)"
        )
    completed = copy.copy(task)
    completed.__class__ = type(type(task).__name__, (type(task), _Plain), {})
    found: Task = completed
    return found


def own_class(task: Task) -> str | None:
    """Name of the user's class that a task, or the task of a head, is of; None where all are this package's."""
    tasks = (task, *(head for _, head in getattr(task, "heads", ())))
    kinds = [kind for one in tasks for kind in type(one).__mro__]
    return next((kind.__name__ for kind in kinds if not kind.__module__.startswith(_OURS)), None)


def own_work(task: Task, doing: str) -> AbstractContextManager[None]:
    """Around what runs a task: whatever a user's own class raises is one UserError that names it."""
    own = own_class(task)
    return nullcontext() if own is None else calling(f"the task {own}, {doing} a network,")


class _Plain(OutputTask):
    """What a class that is no `OutputTask` is completed by: its `score` may give a plain number."""

    def __init_subclass__(cls) -> None:
        own = cls.score

        def score(self: Any, model: nn.Module, batches: Iterable[Batch]) -> Score:
            count = 0

            def counted() -> Iterator[Batch]:
                nonlocal count
                for batch in batches:
                    count += self.size(batch)
                    yield batch

            found = own(self, model, counted())
            return found if isinstance(found, Score) else Score(float(found), count, self.metric, percent=self.percent)

        cls.score = score  # type: ignore[method-assign]

    percent = False


def list_tasks() -> list[str]:
    """Names of the tasks there are."""
    return TASKS.names()


def single_output(output: Any) -> torch.Tensor:
    """The logits of a model: what it returns as `out` or `logits`, or first, or what it returns alone."""
    found = next((one for name in ("out", "logits", "0") if torch.is_tensor(one := part(output, name))), output)
    every = dict(tensors(found))
    if len(every) == 1:
        return next(iter(every.values()))
    named = f", or the task 'heads:{';'.join(f'{name}=TASK' for name in every)}'" if every else ""
    raise UserError(
        f"the model returned a {type(output).__name__}; expected a tensor of logits, alone, under 'out' or 'logits', "
        f"or as the first of a tuple{named}"
    )


def check_above_zero(task: str, option: str, value: float) -> None:
    """Raise UserError unless an option of a task is a finite number above 0."""
    if not 0 < value < float("inf"):  # also for NaN
        raise UserError(f"option {option} of {task} is {value}; it must be a finite number above 0")


def likelihood(loss: float) -> float:
    """A loss as a score in [0, 1], higher is better: exp(-loss), the geometric mean of what is given to the truth."""
    return math.exp(-max(loss, 0.0))


def whole_numbers(targets: Any, dims: int, needs: str) -> torch.Tensor:
    """Targets of `dims` dimensions that are whole numbers of any width, as int64.

    Raises:
        UserError: They are anything else; says what they are, and what is needed.
    """
    if not isinstance(targets, torch.Tensor):
        what = f"are a {type(targets).__name__}"
    elif targets.ndim != dims:
        what = f"have the shape {tuple(targets.shape)}"
    elif targets.is_floating_point() or targets.is_complex():
        what = f"are {str(targets.dtype).removeprefix('torch.')}"
    else:
        return targets.long()
    raise UserError(f"the targets {what}; {needs}")


def check_finite_outputs(output: torch.Tensor) -> None:
    """Raise UserError if a model's output holds NaN or infinity."""
    if not bool(torch.isfinite(output).all()):
        raise UserError(
            "the model's output holds NaN or infinity; every output must be finite: "
            "check the weights and the scale of the images"
        )
