"""Embedding: what is alike lies close; recall at k."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F

from rlprune.errors import UserError, check_count, needing
from rlprune.tasks.base import TASKS, OutputTask, check_above_zero


@TASKS.register("embedding")
@dataclass(frozen=True)
class Embedding(OutputTask):
    """A vector for every example, by whose angles examples of a class are found; targets are class indices (N,).

    Training minimises the supervised contrastive loss (Khosla et al. 2020, eq. 2) within a batch, as the package
    pytorch-metric-learning has it (the extra `embedding`). The score is recall@k: the share of the examples, each
    searched among all others of its split, of which one of the k nearest is of its class. Examples that are the only
    one of their class are not searched; where all are, the score is 0.

    Attributes:
        k: How many neighbours are looked at.
        temperature: Of the loss.
        name: Name of the task.
    """

    k: int = 1
    temperature: float = 0.1
    name: ClassVar[str] = "embedding"
    single: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_count("option k of embedding", self.k)
        check_above_zero(self.name, "temperature", self.temperature)

    @property
    def metric(self) -> str:  # type: ignore[override]
        """Recall at k."""
        return f"recall@{self.k}"

    def loss_of(self, output: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Of every example that has company in the batch, minus the mean log-probability of its company."""
        with needing("the task embedding needs the package pytorch-metric-learning", "embedding"):
            from pytorch_metric_learning.losses import SupConLoss
        return torch.as_tensor(SupConLoss(temperature=self.temperature)(_unit(output, targets), targets))

    def examples(self, output: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """The class, and the vector."""
        return torch.cat((targets[:, None].double(), _unit(output, targets).double()), dim=1)

    def together(self, table: np.ndarray) -> np.ndarray:
        """Of every example that has company whether some of it is among its k nearest, (n, 1)."""
        from sklearn.neighbors import NearestNeighbors  # heavy

        labels, vectors = table[:, 0], table[:, 1:]
        _, which, counts = np.unique(labels, return_inverse=True, return_counts=True)
        searched = counts[which] > 1
        if not searched.any():
            return np.zeros((len(table), 1))
        nearest = NearestNeighbors(n_neighbors=min(self.k, len(table) - 1), metric="cosine").fit(vectors)
        found = (labels[nearest.kneighbors(return_distance=False)] == labels[:, None]).any(axis=1)  # but themselves
        return np.asarray(found[searched, None], dtype=np.float64)


def _unit(output: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Vectors of length one."""
    if output.ndim != 2 or targets.ndim != 1 or len(output) != len(targets):
        raise UserError(
            f"the model gave an output of shape {tuple(output.shape)} for targets of shape {tuple(targets.shape)}; "
            "embedding needs a vector and a class for every example"
        )
    return F.normalize(output.float(), dim=1)
