"""What a criterion is, and how its scores become a plan."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from torch import nn

from rlprune.channels import ChannelGroups, PruningPlan
from rlprune.errors import UserError
from rlprune.measuring.grams import GramStore
from rlprune.options import parse_options
from rlprune.registry import Registry
from rlprune.tasks.base import Batch, Task

Scores = npt.NDArray[np.float64]


@dataclass
class CriterionContext:
    """What a criterion may look at.

    Attributes:
        model: The network as it is now. A criterion leaves it as it found it.
        groups: Its channel groups.
        seed: Of anything random.
        task: How the network is called and what its loss is; for criteria that need `"data"`.
        batches: Gives the calibration batches, always the same ones; for criteria that need `"data"`.
        reduction: Share of the unpruned network's MACs that is gone already, in [0, 1].
        grams: Gram matrices of the network; for criteria that need `"grams"`. They are collected from the calibration
            batches if there are none.
    """

    model: nn.Module
    groups: ChannelGroups
    seed: int = 0
    task: Task | None = None
    batches: Callable[[], Iterable[Batch]] | None = None
    reduction: float = 0.0
    grams: GramStore | None = None

    def data(self, criterion: str) -> tuple[Task, Callable[[], Iterable[Batch]]]:
        """The task and the batches; raises UserError if the caller gave none."""
        if self.task is None or self.batches is None:
            raise UserError(f"criterion {criterion!r} looks at data; give a task and calibration batches, or use 'l1'")
        return self.task, self.batches

    def gram_store(self, criterion: str) -> GramStore:
        """The Gram matrices, collected now if they were not given."""
        if self.grams is None:
            task, batches = self.data(criterion)
            calls = (task.inputs(batch) for batch in batches())
            self.grams = GramStore.collect(self.model, self.groups, calls, seed=self.seed)
        return self.grams


class Criterion(Protocol):
    """Ranks the filters of every group.

    Attributes:
        name: As registered.
        needs: Subset of {"data", "grams"}: what of the context it uses beside the weights.
    """

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def needs(self) -> frozenset[str]: ...  # noqa: D102

    def scores(self, context: CriterionContext) -> dict[str, Scores]:
        """Importance of every unit of every prunable group, float64 (size,); the lowest go first."""
        ...


CRITERIA: Registry[Callable[..., Criterion]] = Registry("criterion")


def list_criteria() -> list[str]:
    """Names of all criteria."""
    return CRITERIA.names()


def get_criterion(spec: str, options: Mapping[str, Any] | None = None) -> Criterion:
    """A criterion by name, with its defaults or with options (see the class of that name).

    Args:
        spec: Its name, with options behind it where some are wanted: `l1:combine=max`.
        options: More of them.

    Raises:
        UserError: unknown name, or an option that this criterion does not have.
    """
    name, colon, text = spec.partition(":")
    make = CRITERIA.get(name)
    given = dict(options or {})
    if colon:
        defaults = {key: value.default for key, value in inspect.signature(make).parameters.items()}
        given |= parse_options(f"criterion {name}", text, defaults)
    try:
        return make(**given)
    except TypeError as error:
        raise UserError(f"criterion {name!r} cannot be made with {given}: {error}") from None


def lowest(scores: npt.NDArray[Any], count: int) -> tuple[int, ...]:
    """Indices of the `count` lowest scores, lowest first; of equal ones the lower index goes first.

    >>> lowest(np.array([2.0, 1.0, 1.0, 0.5]), 2)
    (3, 1)
    """
    if not 0 <= count <= len(scores):
        raise UserError(f"{count} of {len(scores)} filters cannot be chosen; give a count between 0 and {len(scores)}")
    if np.isnan(scores).any():
        raise UserError("a filter's score is NaN; the criterion needs finite weights and activations")
    return tuple(int(i) for i in np.argsort(scores, kind="stable")[:count])


def plan_from_counts(
    groups: ChannelGroups, scores: Mapping[str, npt.NDArray[Any]], counts: Mapping[str, int]
) -> PruningPlan:
    """The plan that removes from every named group its `count` lowest filters."""
    plan = PruningPlan({name: lowest(scores[name], count) for name, count in counts.items() if count})
    plan.validate(groups)
    return plan
