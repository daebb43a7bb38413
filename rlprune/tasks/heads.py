"""Several outputs, each with a task of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn

from rlprune.errors import UserError, check_known
from rlprune.tasks.base import TASKS, Batch, OutputTask, Task, check_finite_outputs, get_task
from rlprune.tasks.parts import part, tensors
from rlprune.tasks.score import Score

_FORM = "heads:0=classification;1=regression:metric=mae;weights=1,0.5;score=worst"


@TASKS.register("heads")
@dataclass(frozen=True)
class Heads(OutputTask):
    """A task for each output, by its name in a dict or dataclass, or its place in a tuple; inside another as `a.0`.

    Targets likewise, or by the order of the heads: columns of a tensor, or a tuple where the heads have names.

    Attributes:
        heads: Output -> its task.
        weights: Of the heads' losses, and of their scores where those are summed.
        combine: "worst": the tolerance is kept on the head that drops most; its score is the lowest of the unpruned
            network's less that drop. "weighted": it is kept on the weighted mean of the scores.
        reference: The unpruned network's scores on control by head, once they are known.
    """

    heads: tuple[tuple[str, OutputTask], ...]
    weights: tuple[float, ...] = ()
    combine: str = "worst"
    reference: tuple[float, ...] = ()
    name: ClassVar[str] = "heads"
    draws: ClassVar[int] = 200

    @classmethod
    def parse(cls, text: str) -> Heads:
        """As in `0=classification;1=regression:metric=mae;weights=1,0.5;score=weighted`.

        Raises:
            UserError: It is not of that form, or a task in it is unknown.
        """
        heads, combine = list[tuple[str, OutputTask]](), "worst"
        weights: tuple[float, ...] = ()
        for entry in filter(None, text.split(";")):
            key, equals, value = (piece.strip() for piece in entry.partition("="))
            if not equals or not value:
                raise UserError(f"task heads has {entry!r}; it must be like {_FORM}")
            if key == "score":
                combine = value
            elif key == "weights":
                weights = _numbers(value)
            else:
                task = get_task(value)
                if isinstance(task, Heads) or task.name == "detection":
                    raise UserError(f"a head cannot have the task {value!r}; it must look at one output")
                if type(task).examples is OutputTask.examples or type(task).loss_of is OutputTask.loss_of:
                    raise UserError(
                        f"the task {value!r} of a head needs the methods loss_of and examples, for its output"
                    )
                heads.append((key, task))
        return cls(tuple(heads), weights, combine)

    def __post_init__(self) -> None:
        if len(self.heads) < 2:
            raise UserError(f"task heads needs two outputs or more, each with its task, like {_FORM}")
        if self.weights and (len(self.weights) != len(self.heads) or min(self.weights) < 0 or not sum(self.weights)):
            raise UserError(f"weights of heads are {self.weights}; give {len(self.heads)} numbers >= 0, one a head")
        check_known("score of heads", self.combine, ("worst", "weighted"))

    @property
    def metric(self) -> str:  # type: ignore[override]
        """How many are looked at, and how; `details` of a score name each."""
        return f"{self.combine} of {len(self.heads)} heads"

    @property
    def percent(self) -> bool:  # type: ignore[override]
        """Whether all the scores are fractions."""
        return all(task.percent for _, task in self.heads)

    @property
    def shares(self) -> tuple[float, ...]:
        """The weights, or 1 each."""
        return self.weights or (1.0,) * len(self.heads)

    def loss(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """Weighted sum of the heads' losses."""
        returned = model(*self.inputs(batch))
        losses = [
            w * task.checked_loss(*pair)
            for w, (task, *pair) in zip(self.shares, self._pairs(returned, batch[1]), strict=True)
        ]
        return torch.stack(losses).sum()

    def score(self, model: nn.Module, batches: Iterable[Batch]) -> Score:
        """The combined score, with each head's own in the details; the interval comes from drawing examples anew."""
        tables: list[list[np.ndarray]] = [[] for _ in self.heads]
        for batch in batches:
            for place, (task, output, targets) in enumerate(self._pairs(model(*self.inputs(batch)), batch[1])):
                check_finite_outputs(output)
                found = task.examples(output, targets)
                tables[place].append(
                    np.asarray(found.detach().double().cpu() if isinstance(found, torch.Tensor) else found)
                )
        if not tables[0]:
            raise UserError("there are no examples to score; give the split at least one")
        whole = [task.together(np.concatenate(parts)) for (_, task), parts in zip(self.heads, tables, strict=True)]
        if len({len(table) for table in whole}) > 1:
            raise UserError("a head counts other examples than the others do; give an embedding a run of its own")

        def measured(index: np.ndarray | None = None) -> list[float]:
            chosen = whole if index is None else [table[index] for table in whole]
            return [task.measure(table) for (_, task), table in zip(self.heads, chosen, strict=True)]

        values = measured()
        details = {f"{task.metric} ({key})": value for (key, task), value in zip(self.heads, values, strict=True)}
        return Score(
            self._combined(values), len(whole[0]), self.metric, None, details,
            resample=lambda index: self._combined(measured(index)), draws=self.draws, percent=self.percent,
        )  # fmt: skip

    def prepared(self, score: Callable[[Task], Score]) -> Task:
        """With the unpruned network's scores, against which the worst drop is counted."""
        if self.combine != "worst" or self.reference:
            return self
        return replace(self, reference=tuple(score(self).details.values()))

    def _combined(self, values: list[float]) -> float:
        if self.combine == "weighted":
            return sum(w * value for w, value in zip(self.shares, values, strict=True)) / sum(self.shares)
        if not self.reference:
            return min(values)
        drops = [w * (was - now) for w, was, now in zip(self.shares, self.reference, values, strict=True)]
        return min(self.reference) - max(drops)

    def _pairs(self, returned: Any, targets: Any) -> list[tuple[OutputTask, Any, Any]]:
        found = []
        for place, (key, task) in enumerate(self.heads):
            output = _part(returned, key, place, "outputs")
            wanted = _part(targets, key, place, "targets")
            if type(task).__name__ == "Classification" and isinstance(wanted, torch.Tensor):
                wanted = wanted.long()
            found.append((task, task.output(output, wanted), wanted))
        return found


def _part(whole: Any, key: str, place: int, what: str) -> Any:
    """One head's part of the outputs or targets; targets that have no names go by the order of the heads."""
    found = part(whole, key)
    if found is None and what == "targets":
        if isinstance(whole, torch.Tensor) and whole.ndim == 2 and place < whole.shape[1]:
            return whole[:, place]
        if isinstance(whole, (tuple, list)) and not key.isdigit() and place < len(whole):
            return whole[place]
    if found is None:
        there = ", ".join(name for name, _ in tensors(whole)) or "one tensor, or none"
        raise UserError(f"there is no head {key!r} among the {what} ({there}); name heads as the {what} are")
    return found


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(map(float, text.split(",")))
    except ValueError:
        raise UserError(f"weights of heads are {text!r}; they must be numbers, as in 1,0.5") from None
