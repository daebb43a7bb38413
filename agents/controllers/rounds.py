"""What rules that decide whole rounds share: orders of filters over all layers, and how far to go along them."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rlprune.agents.controllers.base import OnTrial

if TYPE_CHECKING:
    from rlprune.channels import ChannelGroup, ChannelGroups
    from rlprune.envs.env import FilterPruningEnv

SPREAD = 0.15  # of rates drawn around others
Scores = Mapping[str, NDArray[np.float64]]


def is_convolution(group: ChannelGroup, groups: ChannelGroups) -> bool:
    """Whether the group's filters are those of convolutions, not of linear layers."""
    return bool(group.producers) and groups.layers[group.producers[0]].kind != "linear"


def counts_of(order: Iterable[str]) -> dict[str, int]:
    """How often every group is named."""
    return dict(Counter(order))


def global_order(env: FilterPruningEnv, scores: Scores) -> list[str]:
    """The groups of all filters that may go, lowest score first; every group keeps its minimum.

    Of equal scores the earlier group, and in it the lower filter, goes first.
    """
    ranked = []
    for place, group in enumerate(env.prunable):
        if group.name in scores:
            lowest = np.sort(scores[group.name], kind="stable")[: group.max_removable]
            ranked += [(float(score), place, number) for number, score in enumerate(lowest)]
    names = [group.name for group in env.prunable]
    return [names[place] for _, place, _ in sorted(ranked)]


def aimed(env: FilterPruningEnv) -> bool:
    """Whether this round has MACs to end at, met at once: then a rule gives what meets them, whatever its own stop."""
    return env.budget.target is not None and env.budget.must_meet


def first_to_meet(env: FilterPruningEnv, order: list[str]) -> int:
    """The smallest k such that the first k filters of `order` leave at most the budget's MACs; all, if none is enough.

    Bisection: MACs fall with every filter.
    """
    budget, target = env.budget, env.budget.target
    if target is None:
        return len(order)
    places = {group.name: place for place, group in enumerate(env.prunable)}

    def meets(k: int) -> bool:
        counts = np.zeros(len(places), dtype=np.int64)
        for name, count in counts_of(order[:k]).items():
            counts[places[name]] = count
        return budget.cost(budget.before + counts) <= target

    return bisect_left(range(len(order)), True, key=meets)


def largest_harmless(count: int, drop: Callable[[int], float], tolerance: float) -> int:
    """The largest k <= count with drop(k) <= tolerance, by bisection; `drop` is taken to be monotone, drop(0) to be 0.

    Calls `drop` at most ceil(log2(count + 1)) times.
    """
    good, bad = 0, count + 1
    while bad - good > 1:
        middle = (good + bad) // 2
        if drop(middle) <= tolerance:
            good = middle
        else:
            bad = middle
    return good


def per_weight(env: FilterPruningEnv, name: str) -> NDArray[np.float64]:
    """A group's scores, those of norms as means over the weights of a filter: comparable between layers."""
    groups = env.network.groups
    layers = [groups.layers[layer] for layer in groups[name].producers]
    weights = float(np.mean([np.prod(layer.shape) / max(groups[name].size, 1) for layer in layers]))
    return np.asarray(env.scores[name] / weights)


def loss_of(env: FilterPruningEnv, counts: Mapping[str, int], recovery: Any) -> tuple[float, bool]:
    """What a removal leaves after a cheap recovery: the control loss and True, or minus the score if there is none."""
    score, _ = env.preview(env.feasible(counts), recovery)
    return (-score.value, False) if score.loss is None else (score.loss, True)


def compared(
    env: FilterPruningEnv, found: Mapping[str, Mapping[str, int]], recovery: Any, tell: OnTrial | None = None
) -> list[dict[str, Any]]:
    """What every schedule leaves after a cheap recovery: `round`, `by`, `loss`, and the evaluations made by then."""
    lines = list[dict[str, Any]]()
    for kind, counts in found.items():
        loss, _ = loss_of(env, counts, recovery)
        lines.append({"round": env.round, "by": kind, "loss": loss, "evaluations": env.problem.ledger.evaluations})
        if tell is not None:
            tell(len(lines), len(found), -min(line["loss"] for line in lines))
    return lines


def met(env: FilterPruningEnv, rates: Any) -> dict[str, int]:
    """Counts by group for rates (n,), scaled to the MACs that the round aims at."""
    names = (group.name for group in env.prunable)
    return dict(zip(names, env.budget.repair(rates).tolist(), strict=True))


def scaled_back(env: FilterPruningEnv) -> dict[str, int]:
    """The last round's counts, scaled to the MACs that this one aims at: part of what went then, if it aims at more."""
    removed = env.history[-1]["removed"]
    return met(env, np.array([removed.get(group.name, 0) for group in env.prunable]) / env.budget.sizes)


def climb(env: FilterPruningEnv, counts: dict[str, int], recovery: Any, tries: int) -> dict[str, int]:
    """The counts of least control loss among some drawn around the best so far, all at the MACs that the round aims at.

    Where only a score can be had, which tells little of small changes, counts come back as they are.
    """
    from rlprune.seeding import numpy_generator

    least, known = loss_of(env, counts, recovery)
    generator, sizes = numpy_generator(env.rules.seed, "climb", env.round), env.budget.sizes
    for _ in range(tries if known else 0):
        tried = met(env, np.array([*counts.values()]) / sizes + generator.normal(0.0, SPREAD, len(sizes)))
        loss, _ = loss_of(env, tried, recovery)
        if loss < least:
            counts, least = tried, loss
    return counts
