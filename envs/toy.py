"""A pruning problem with a formula for a network: its best schedule is known, and a step costs microseconds."""

from __future__ import annotations

from functools import cached_property

import numpy as np

from rlprune.channels import ChannelGroup, ChannelGroups, Layer, PruningPlan, Slot
from rlprune.envs.env import FilterPruningEnv
from rlprune.envs.episode.offline import OfflineTransitions
from rlprune.envs.observations import score_mass
from rlprune.envs.rules import Rules
from rlprune.seeding import numpy_generator
from rlprune.tasks import Score

STREAM = 16  # channels between the blocks
IMAGES = 10_000


class ToyProblem:
    """Blocks of two convolutions on a stream of 16 channels; each block's inner filters are a group.

    Pruning group i of which the fraction x of its score goes costs `sensitivity[i] * x ** 1.5` of the score. MACs are
    linear in the counts, so the best counts for a budget follow from dynamic programming.

    Args:
        blocks: How many.
        seed: Of widths, sensitivities and score profiles.
    """

    def __init__(self, blocks: int = 8, seed: int = 0) -> None:
        generator = numpy_generator(seed, "toy")
        self.widths = [int(width) for width in generator.choice([16, 32, 64], blocks)]
        sensitivity = np.exp(generator.normal(0.0, 1.2, blocks))
        self.sensitivity = 0.9 * sensitivity / sensitivity.sum()
        self.groups = self._groups()
        self.baseline = Score(0.95, IMAGES)
        decay = generator.uniform(0.5, 4.0, blocks)
        self.ranking = {
            group.name: np.exp(-rate * np.arange(group.size) / group.size)
            for group, rate in zip(self.groups, decay, strict=True)
        }
        self.losses = [
            weight * score_mass(self.ranking[group.name]) ** 1.5
            for group, weight in zip(self.groups, self.sensitivity, strict=True)
        ]

    def score(self, plan: PruningPlan) -> Score:
        """The score after a plan."""
        lost = sum(float(loss[plan.count(group.name)]) for group, loss in zip(self.groups, self.losses, strict=True))
        return Score(max(0.0, self.baseline.value - lost), IMAGES)

    def optimum(self, budget: float, max_rate: float) -> float:
        """The best score at `budget` of the MACs with no rate above `max_rate`.

        All filters cost the same, so the budget is a number of filters, and dynamic programming over it is exact.
        """
        need = int(np.ceil((1.0 - budget) * sum(self.widths) - 1e-9))
        best = np.full(need + 1, np.inf)
        best[0] = 0.0
        for width, loss in zip(self.widths, self.losses, strict=True):
            options = loss[: int(max_rate * width + 1e-9) + 1]
            trial = np.full(need + 1, np.inf)
            for count, lost in enumerate(options):
                places = np.minimum(np.arange(need + 1) + count, need)
                np.minimum.at(trial, places, best + lost)
            best = trial
        return self.baseline.value - float(best[need])

    def _groups(self) -> ChannelGroups:
        groups, layers = [], {}
        for i, width in enumerate(self.widths):
            names = [f"block{i}.conv1", f"block{i}.conv2"]
            shapes = [(width, STREAM, 3, 3), (STREAM, width, 3, 3)]
            for order, (name, shape) in enumerate(zip(names, shapes, strict=True), start=2 * i):
                layers[name] = Layer(name, f"{name}.weight", None, "conv", 1, (3, 3), (1, 1), 64, 64, 64, shape, order)
            rows = np.arange(width, dtype=np.int64)[:, None]
            slots = (Slot(f"{names[0]}.weight", 0, "out", rows), Slot(f"{names[1]}.weight", 1, "in", rows))
            groups.append(
                ChannelGroup(names[0], width, slots, producers=(names[0],), consumers=(names[1],), min_channels=1)
            )
        shapes_by_name = {layer.weight: layer.shape for layer in layers.values()}
        parameters = sum(int(np.prod(shape)) for shape in shapes_by_name.values())
        return ChannelGroups(groups, layers, shapes_by_name, parameters)


class ToyPruningEnv(FilterPruningEnv):
    """`rlprune/LayerwisePruning-v0` on a formula; `optimum` and `uniform_score` are known.

    Args:
        blocks: Groups to visit.
        budget, max_rate, reward: As in `FilterPruningEnv`.
        seed: Of the problem.
        render_mode: As in `FilterPruningEnv`.
    """

    def __init__(
        self,
        blocks: int = 8,
        budget: float = 0.5,
        max_rate: float = 0.9,
        reward: str = "accuracy",
        seed: int = 0,
        render_mode: str | None = None,
    ) -> None:
        self.toy = ToyProblem(blocks, seed)
        rules = Rules(one_shot=True, budget=budget, max_rate=max_rate, reward=reward, seed=seed).check()
        toy = self.toy
        self._setup(OfflineTransitions(toy.groups, toy.baseline, toy.ranking, {}, toy.score), rules, render_mode)

    @cached_property
    def optimum(self) -> float:
        """The best score that any schedule reaches."""
        assert self.rules.budget is not None
        return self.toy.optimum(self.rules.budget, self.rules.max_rate)

    @cached_property
    def uniform_score(self) -> float:
        """The uniform schedule's score."""
        self.reset()
        counts = self._episode.current.uniform_counts(self.budget.target or 0)
        return self.preview(counts)[0].value
