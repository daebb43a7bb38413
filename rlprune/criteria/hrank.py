"""HRank: filters whose feature maps have low rank carry little."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rlprune.criteria.base import CRITERIA, CriterionContext, Scores
from rlprune.criteria.combining import COMBINE, combine_layers, weight_slots
from rlprune.criteria.magnitude import L1
from rlprune.errors import check_count
from rlprune.scoring.evaluation import evaluating


@CRITERIA.register("hrank")
@dataclass(frozen=True)
class HRank:
    """Mean rank of a filter's feature maps over some images (Lin et al. 2020, *HRank*, eq. 5).

    The map is taken where a convolution reads it, after norm and activation; behind the last one, where only linear
    layers read, it is taken as the layer puts it out, rectified. Groups without maps (linear layers) are ranked by L1.

    Attributes:
        images: How many images to look at; ranks hardly vary between images.
        combine: How the places of one group are combined: see `COMBINE`.
    """

    images: int = 64
    combine: str = "mean"

    name = "hrank"
    needs = frozenset({"data"})

    def __post_init__(self) -> None:
        COMBINE.get(self.combine)
        check_count("images", self.images)

    def scores(self, context: CriterionContext) -> dict[str, Scores]:
        """The mean rank of every unit's maps."""
        task, batches = context.data(self.name)
        places: dict[str, list[tuple[str, np.ndarray]]] = {}  # group -> (layer@side, channels of every unit)
        for group in context.groups.prunable:
            read = [
                (layer, slot) for layer, slot in weight_slots(context.groups, group, "in") if layer.kind != "linear"
            ]
            made = [
                (layer, slot) for layer, slot in weight_slots(context.groups, group, "out") if layer.kind != "linear"
            ]
            chosen = [(f"{layer.name}@in", slot.index) for layer, slot in read if layer.groups == 1]
            places[group.name] = chosen or [(f"{layer.name}@out", s.index) for layer, s in made if layer.groups == 1]
        ranks = self._ranks(context.model, {p for found in places.values() for p, _ in found}, task.inputs, batches())
        scores = {}
        for group in context.groups.prunable:
            layers = [ranks[place][index].sum(1) for place, index in places[group.name] if place in ranks]
            scores[group.name] = (
                combine_layers(self.combine, layers, group.size) if layers else L1(self.combine)._group(context, group)
            )
        return scores

    def _ranks(
        self, model: nn.Module, places: set[str], inputs: Callable[[Any], tuple[Any, ...]], batches: Any
    ) -> dict[str, Scores]:
        """Mean rank of every channel at every place, weighted by images."""
        sums: dict[str, Scores] = {}
        counts: dict[str, int] = {}
        left = self.images

        def look(place: str, maps: Tensor) -> None:
            if maps.dim() == 4:
                found = torch.linalg.matrix_rank(maps[:left].float()).double().sum(0).cpu().numpy()
                sums[place] = sums.get(place, 0.0) + found
                counts[place] = counts.get(place, 0) + min(left, len(maps))

        handles = []
        for name, module in model.named_modules():
            if f"{name}@in" in places:
                handles.append(module.register_forward_pre_hook(lambda _, a, p=f"{name}@in": look(p, a[0])))
            if f"{name}@out" in places:
                handles.append(module.register_forward_hook(lambda _, __, o, p=f"{name}@out": look(p, o.relu())))
        try:
            with evaluating(model), torch.no_grad():
                for batch in batches:
                    call = inputs(batch)
                    model(*call)
                    left -= len(call[0])
                    if left <= 0:
                        break
        finally:
            for handle in handles:
                handle.remove()
        return {place: total / counts[place] for place, total in sums.items()}
