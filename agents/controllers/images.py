"""Fixed training images on which rules measure losses."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial

import torch
from torch import nn

from rlprune.channels import PruningPlan
from rlprune.network import Network
from rlprune.problem import PruningProblem
from rlprune.scoring.evaluation import batch_within, evaluating
from rlprune.scoring.prefix import PrefixCache
from rlprune.tasks import Batch
from rlprune.tasks.detection import Detection


class FixedImages:
    """Some images of the train role, the same ones in every round; on the device for good if they are few enough.

    Args:
        problem: Data, task and device.
        count: How many; all of the role if there are no more.
        seed: Of the draw.
        batch_size: Images at a time, at most: large ones come in fewer.
    """

    HELD = 2**30  # bytes
    PIXELS = 2**19  # of a batch on a CPU, that its activations fit into memory with their gradients

    def __init__(self, problem: PruningProblem, count: int, seed: int, batch_size: int = 500) -> None:
        train = problem.data.split("train")
        pixels = self.PIXELS * (1 if problem.device.type == "cpu" else 8)
        self.problem, self.batch_size = problem, batch_within(pixels, batch_size, problem.data.input_shape)
        self.split = train.subset(min(count, len(train)), seed=seed)
        few = 4 * len(self.split) * math.prod(problem.data.input_shape) <= self.HELD
        self._held = list(self._stream()) if few else None

    def __len__(self) -> int:
        return len(self.split)

    def batches(self) -> Iterable[Batch]:
        """The images, in batches of fixed order."""
        return self._stream() if self._held is None else self._held

    def _stream(self) -> Iterator[Batch]:
        found: Iterator[Batch] = self.split.batches(self.batch_size, device=self.problem.device)
        return found

    def loss(self, model: nn.Module, select: Callable[[int], None] | None = None) -> float:
        """The task's mean loss of a network in eval mode; counts as an evaluation.

        Args:
            model: The network.
            select: Told the number of every batch before the network sees it.
        """
        problem, total, seen = self.problem, 0.0, 0
        with evaluating(model), torch.inference_mode():
            for number, batch in enumerate(self.batches()):
                if select is not None:
                    select(number)
                size = problem.task.size(batch)
                total += float(problem.task.loss(model, batch)) * size
                seen += size
        problem.ledger.evaluations += 1
        problem.ledger.images_evaluated += seen
        return total / max(seen, 1)

    def losses(self, network: Network, plans: Mapping[str, PruningPlan]) -> dict[str, float]:
        """The loss of `network` without each of the plans in turn, each of which is of the group that names it.

        What runs before a group's first layer is computed once, unless it sees the targets, as in a detector.
        """
        problem, found = self.problem, dict[str, float]()
        if isinstance(problem.task, Detection):
            return {name: self.loss(network.remove(plan, problem.groups).model) for name, plan in plans.items()}

        def modules(name: str) -> set[str]:
            return {slot.tensor.rpartition(".")[0] for slot in network.groups[name].slots}

        with evaluating(network.model):
            calls = partial(map, problem.task.inputs)
            cache = PrefixCache(network.model, problem.example_inputs, lambda: calls(self.batches()))
            for name in sorted(plans, key=lambda name: cache.position(modules(name))):
                cache.advance(modules(name))
                model = network.remove(plans[name], problem.groups).model.eval()
                with cache.attached(model) as select:
                    found[name] = self.loss(model, select)
        return {name: found[name] for name in plans}
