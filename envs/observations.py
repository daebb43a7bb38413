"""What a controller sees: numbers in [-1, 1] that mean the same for every network.

The vector has one length whatever the network, and nothing in it is scaled by another layer or network: widths are
logarithms, shares are fractions of the whole, score profiles are fractions within the group. Bounded by construction.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rlprune.channels import ChannelGroups
from rlprune.envs.episode.window import Window
from rlprune.kinds import KINDS

LEAST_ERROR = 1e-4  # as good as none
QUANTILES = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)

GROUP_FEATURES = (
    "width",  # log2 of the filters in the group now
    "width_base",  # ... and in the unpruned network
    "left",  # fraction of the unpruned width
    "inputs",  # log2 of what the first producer reads
    "outputs",  # log2 of what the first consumer writes
    "expansion",  # width against inputs, log scale
    "kernel",
    "stride",
    "extent",  # log2 of the output positions
    "macs_share",  # square root of the share of the present MACs that goes with the group
    "parameters_share",
    "intensity",  # MACs share against parameters share
    *(f"is_{kind}" for kind in KINDS),
    "depth",
    "is_first",
    "is_last",
    "producers",
    "consumers",
    *(f"score_q{int(100 * q)}" for q in QUANTILES),
    "score_gini",
)

PROGRESS_FEATURES = (
    "lo",
    "hi",
    "uniform",  # the rate that action 0 stands for
    "share_lost_lo",  # share of the group's score that goes at the window's ends and at the uniform rate
    "share_lost_uniform",
    "share_lost_hi",
    "removed",  # of the MACs, or of what the budget is of: gone so far
    "removed_round",
    "reachable",  # what can still go in this round
    "to_remove",  # what still has to go for the budget
    "last_rate",
    "last_departure",  # last rate minus the uniform rate at the time
    "second_last_rate",
    "mean_departure",
    "drop",  # drop / tolerance, squashed
    "slope",  # its change over the last round
    "score",
    "baseline",
    "round",
    "rounds_left",
    "cap",  # the largest rate allowed
    "tolerance",
    "has_budget",
    "budget",
    "counts_macs",  # what the budget is of
    "counts_parameters",
    "keeps_tolerance",  # whether the tolerance says how far this round goes
    "has_errors",  # whether the next seven are known; they are 0 where not
    "error_lo",  # share of the readers' variance that is lost for good, log scale: at the window's ends ...
    "error_uniform",  # ... at the uniform rate ...
    "error_hi",
    "error_advised",  # ... and at the advised rate
    "advised",  # the rate at which the errors of this and all later groups sum to least within the budget
    "advised_departure",  # ... minus the uniform rate
    "advised_action",  # the action that executes it
)

FEATURES = GROUP_FEATURES + PROGRESS_FEATURES
"""Names of the observation's entries, in order."""


def squash(x: float) -> float:
    """Map the real line onto (-1, 1): x / (1 + |x|)."""
    return x / (1.0 + abs(x))


def gini(values: NDArray[np.float64]) -> float:
    """Gini coefficient of non-negative values: 0 if all are equal, near 1 if one holds everything."""
    ordered = np.sort(values)
    total = float(ordered.sum())
    if total <= 0.0:
        return 0.0
    n = len(ordered)
    return float(2.0 * (np.arange(1, n + 1) @ ordered) / (n * total) - (n + 1) / n)


def group_features(
    groups: ChannelGroups,
    names: Sequence[str],
    base_sizes: NDArray[np.int64],
    macs_share: NDArray[np.float64],
    parameter_share: NDArray[np.float64],
    scores: Mapping[str, NDArray[np.float64]],
) -> NDArray[np.float32]:
    """The part of the observation (n, len(GROUP_FEATURES)) that is fixed during a round.

    Args:
        groups: The groups as they are at the start of the round.
        names: The n groups that are visited.
        base_sizes: Their filters (n,) in the unpruned network.
        macs_share: The fraction (n,) of the present MACs that would go with each whole group.
        parameter_share: The same of the parameters.
        scores: The criterion's score of every filter, by group.
    """
    last = max(1, len(names) - 1)
    table = np.empty((len(names), len(GROUP_FEATURES)), dtype=np.float64)
    for row, name in enumerate(names):
        group = groups[name]
        producer = groups.layers[group.producers[0]]
        consumer = groups.layers[group.consumers[0]] if group.consumers else producer
        size = group.size
        inputs, outputs = producer.shape[1] if len(producer.shape) > 1 else 1, consumer.shape[0]
        table[row] = (
            _log2(size, 12),
            _log2(int(base_sizes[row]), 12),
            size / int(base_sizes[row]),
            _log2(inputs, 12),
            _log2(outputs, 12),
            squash(float(np.log2(size / inputs)) / 2),
            min(1.0, max(producer.kernel, default=1) / 7),
            _log2(max(producer.stride, default=1), 3),
            _log2(producer.extent, 20),
            np.sqrt(macs_share[row]),
            np.sqrt(parameter_share[row]),
            squash(float(np.log2((macs_share[row] + 1e-6) / (parameter_share[row] + 1e-6))) / 2),
            *(kind in group.kinds for kind in KINDS),
            row / last,
            row == 0,
            row == len(names) - 1,
            _log2(len(group.producers), 6),
            _log2(len(group.consumers), 6),
            *_profile(np.asarray(scores[name], dtype=np.float64)),
        )
    return np.clip(np.nan_to_num(table), -1.0, 1.0).astype(np.float32)


def _profile(scores: NDArray[np.float64]) -> list[float]:
    """Quantiles against the mean, q/(q + mean) in [0, 1], and the Gini coefficient. Scores are shifted to be >= 0."""
    scores = scores - min(0.0, float(scores.min()))
    mean = float(scores.mean())
    if mean <= 0.0:
        return [0.5] * len(QUANTILES) + [0.0]
    quantiles = np.quantile(scores, QUANTILES)
    return [*(quantiles / (quantiles + mean)), gini(scores)]


def score_mass(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """The share (size + 1,) of the group's score that goes with its 0, 1, 2 ... lowest filters."""
    ordered = np.sort(np.asarray(scores, dtype=np.float64))
    ordered = ordered - min(0.0, float(ordered[0]))
    total = float(ordered.sum())
    if total <= 0.0:
        return np.linspace(0.0, 1.0, len(ordered) + 1)
    mass: NDArray[np.float64] = np.minimum(1.0, np.concatenate([np.zeros(1), np.cumsum(ordered) / total]))
    return mass


@dataclass(eq=False, slots=True)
class Progress:
    """Where an episode stands; everything the observation needs beside the group.

    Attributes:
        window: The current group's window.
        mass: `score_mass` of the current group.
        removed, removed_round, reachable, to_remove: Fractions of the unpruned cost, in what is counted.
        rates, departures: Executed rates of this round, and how far each was from the uniform rate at the time.
        drops: Drop after each round so far, newest last.
        score, baseline, tolerance: As of now.
        round: Rounds done; `rounds` is how many there may be (None: any number).
        cap: The largest rate allowed.
        budget: Fraction of the cost to keep, or None.
        counted: Which cost: `macs` or `parameters`.
        keeps: Whether the tolerance says how far this round goes, and no budget that has to be met.
        curve: The current group's errors (size + 1,), or None if they are not known.
        advised: The count at which the errors of this and all later groups sum to least.
    """

    window: Window
    mass: NDArray[np.float64]
    removed: float
    removed_round: float
    reachable: float
    to_remove: float
    rates: Sequence[float]
    departures: Sequence[float]
    drops: Sequence[float]
    score: float
    baseline: float
    tolerance: float
    round: int
    rounds: int | None
    cap: float
    budget: float | None
    counted: str = "macs"
    keeps: bool = False
    curve: NDArray[np.float64] | None = None
    advised: float = 0.0


def progress_features(progress: Progress) -> tuple[float, ...]:
    """The part of the observation (len(PROGRESS_FEATURES),) that changes from step to step, before it is clipped."""
    p, window = progress, progress.window
    lo, hi = window.rates
    uniform = window.uniform_rate
    scale = max(p.tolerance, 1e-3)
    drop = p.drops[-1] if p.drops else 0.0
    before = p.drops[-2] if len(p.drops) > 1 else 0.0
    return (
        lo,
        hi,
        uniform,
        p.mass[window.lo],
        between(p.mass, uniform * window.size),
        p.mass[window.hi],
        p.removed,
        p.removed_round,
        p.reachable,
        p.to_remove,
        p.rates[-1] if p.rates else 0.0,
        p.departures[-1] if p.departures else 0.0,
        p.rates[-2] if len(p.rates) > 1 else 0.0,
        sum(p.departures) / len(p.departures) if p.departures else 0.0,
        squash(drop / scale),
        squash((drop - before) / scale),
        p.score,
        p.baseline,
        p.round / (1 + p.round),
        1.0 if p.rounds is None else 1.0 - p.round / p.rounds,
        p.cap,
        p.tolerance / (p.tolerance + 0.02),
        float(p.budget is not None),
        p.budget if p.budget is not None else 0.0,
        float(p.budget is not None and p.counted == "macs"),
        float(p.budget is not None and p.counted == "parameters"),
        float(p.keeps),
        *_errors(p),
    )


def _errors(p: Progress) -> tuple[float, ...]:
    """The last eight of `PROGRESS_FEATURES`."""
    if p.curve is None:
        return (0.0,) * 8
    window = p.window
    uniform = window.uniform_rate * window.size
    advised = min(max(p.advised, window.lo), window.hi)
    levels = [
        1.0 + math.log10(max(between(p.curve, count), LEAST_ERROR)) * (-2.0 / math.log10(LEAST_ERROR))
        for count in (window.lo, uniform, window.hi, advised)
    ]
    departure = (advised - uniform) / window.size
    action = window.action(window.nearest(advised))
    return (1.0, *levels, advised / window.size, departure, action)


def between(curve: NDArray[np.float64], count: float) -> float:
    """The value of a curve, given at 0, 1, 2 ..., at a count that may be a fraction."""
    below = int(count)
    value = float(curve[below])
    return value if below == count else value + (count - below) * (float(curve[below + 1]) - value)


def observation(group: NDArray[np.float32], progress: Progress) -> NDArray[np.float32]:
    """The whole observation (len(FEATURES),) from a group's row and the progress."""
    whole = np.empty(len(FEATURES), dtype=np.float32)
    whole[: len(group)] = group
    whole[len(group) :] = np.minimum(np.maximum(np.array(progress_features(progress)), -1.0), 1.0)
    return whole


def _log2(x: float, full: float) -> float:
    return float(np.log2(max(1.0, x))) / full
