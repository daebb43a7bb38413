"""What a pruning gives back."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from rlprune.artifact import save_pruned
from rlprune.channels import ChannelGroups, PruningPlan
from rlprune.errors import UserError, check_is_file
from rlprune.problem import PruningProblem
from rlprune.report.content import run_content
from rlprune.report.html import write_report
from rlprune.report.summary import followed_by_group


@dataclass(frozen=True, eq=False)
class Result:
    """A pruned network, and how it came about.

    Attributes:
        model: The smaller network, an ordinary `torch.nn.Module` in eval mode.
        plan: What was removed: group name -> channels, numbered as in the unpruned network.
        groups: The channel groups of `model`.
        baseline: Control score of the unpruned network.
        score: Control score of `model`.
        drop: Baseline minus score; at most the tolerance.
        macs, parameters: Cost of `model`: multiply–accumulates of one example, and parameters.
        history: A line for every round: rates, cost, drop, and why it went no further.
        record: All of it in plain values, with scores on the test split where there is one, and the unpruned network's.
    """

    model: nn.Module
    plan: PruningPlan
    groups: ChannelGroups
    baseline: float
    score: float
    drop: float
    macs: int
    parameters: int
    history: list[dict[str, Any]]
    record: Mapping[str, Any]
    _problem: PruningProblem = field(repr=False)

    def __repr__(self) -> str:
        before = self.record["baseline"]
        return (
            f"Result(macs={self.macs:,} of {before['macs']:,}, parameters={self.parameters:,} of "
            f"{before['parameters']:,}, score={self.score:.4f}, drop={self.drop:.4f})"
        )

    @property
    def followed(self) -> dict[str, float]:
        """By group how far a trained agent was followed, from 0 (it faded away) to 1; nothing for rules."""
        return followed_by_group(self.history)

    def save(self, path: str | Path) -> str:
        """Write `model.pt`, which torch alone loads into the unpruned network (README); returns its checksum."""
        about = {"model": self.record["model"], "classes": list(self._problem.data.classes)}
        return save_pruned(_file(path), self._problem.model, self.model, {**about, "plan": self.plan.to_json()})

    def report(self, path: str | Path) -> Path:
        """Write one self-contained HTML file."""
        file = _file(path)
        write_report({**run_content(self.record, file.stem), "sensitivity": None}, file)
        return file


def _file(path: str | Path) -> Path:
    """Where to write; raises UserError if that is no path, or a folder."""
    if not isinstance(path, str | os.PathLike):
        raise UserError(f"path is {path!r}; it must be the path of a file")
    check_is_file("path", Path(path))
    return Path(path)
