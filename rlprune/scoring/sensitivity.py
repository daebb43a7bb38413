"""How much each channel group hurts: the score of the network with one group pruned at one rate, for all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from rlprune.artifact import fingerprint
from rlprune.channels import ChannelGroup, PruningPlan
from rlprune.criteria import lowest
from rlprune.errors import UserError, check_known, check_rate, reading
from rlprune.files import read_json, write_json
from rlprune.measuring.unfolding import Unfoldable
from rlprune.network import Network
from rlprune.problem import PruningProblem
from rlprune.recovery import make_recovery
from rlprune.scoring.evaluation import Evaluator
from rlprune.scoring.folding import fold, foldable, folded
from rlprune.scoring.prefix import PrefixCache
from rlprune.seals import KEY
from rlprune.tasks import Batch, Score, score_drop
from rlprune.typed import as_table, from_table

RATES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
LOCAL = frozenset({"none", "lsq"})  # recovery steps that change no tensor outside the pruned group


def removed_by_scan(size: int, rate: float) -> int:
    """How many of `size` filters go at a rate in a scan: never more than the rate says.

    >>> removed_by_scan(16, 0.1)
    1
    """
    return int(size * rate + 1e-9)


@dataclass
class Sensitivity:
    """Scores by group and rate.

    Attributes:
        settings: What was scanned and how, in plain values; a scan goes on only where these are the same.
        baseline: Score of the unpruned network.
        rates: The rates of the scan, ascending.
        scores: Group -> a score for every rate.
        removed: Group -> how many filters each rate is.
    """

    settings: dict[str, Any]
    baseline: float
    rates: tuple[float, ...]
    scores: dict[str, list[float]] = field(default_factory=dict)
    removed: dict[str, list[int]] = field(default_factory=dict)

    def drops(self, group: str) -> list[float]:
        """Baseline minus score for every rate."""
        check_known("scanned group", group, self.scores)
        return [score_drop(self.baseline, score) for score in self.scores[group]]

    def largest_rate(self, group: str, tolerance: float) -> float:
        """The largest rate up to which no rate drops the score by more than `tolerance`; 0 if the first does."""
        largest = 0.0
        for rate, drop in zip(self.rates, self.drops(group), strict=True):
            if drop > tolerance:
                break
            largest = rate
        return largest

    def order(self) -> list[str]:
        """Groups from the most to the least sensitive, by their mean drop."""
        return sorted(self.scores, key=lambda name: sum(self.scores[name]))

    def ordered(self, names: Sequence[str]) -> Sensitivity:
        """The same, its groups in the order of `names`."""
        found = [name for name in names if name in self.scores]
        scores, removed = {name: self.scores[name] for name in found}, {name: self.removed[name] for name in found}
        return replace(self, scores=scores, removed=removed)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return as_table(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Sensitivity:
        """What `to_json` wrote; raises UserError for anything else."""
        try:
            found = from_table(cls, {name: data[name] for name in data if name != KEY}, "the scan")
        except UserError as error:
            raise UserError(f"this is no sensitivity scan: {error}") from None
        for name, scores in found.scores.items():
            if len(scores) != len(found.rates):
                raise UserError(f"the scan has {len(found.rates)} rates and {len(scores)} scores of {name!r}")
        return found

    @classmethod
    def read(cls, path: Path) -> Sensitivity:
        """The scan in a file; raises UserError naming it for anything else."""
        with reading(path, "a sensitivity scan"):
            return cls.from_json(read_json(path))


def scan(
    problem: PruningProblem,
    *,
    network: Network | None = None,
    criterion: str = "l1",
    recovery: str = "none",
    rates: Sequence[float] = RATES,
    groups: Sequence[str] | None = None,
    limit: int | None = None,
    amp: bool = False,
    seed: int = 0,
    path: Path | None = None,
    on_step: Callable[[str, float], None] | None = None,
) -> Sensitivity:
    """Score `network` on the control split with one group pruned at one rate, for every group and rate.

    What runs before the pruned group is computed once (see `PrefixCache`) where the recovery leaves it alone.

    Args:
        problem: Data and task.
        network: What to scan; the unpruned network by default.
        criterion: Ranks the filters.
        recovery: Applied after each removal.
        rates: Fractions removed, rounded down to whole filters and to what a group may give.
        groups: Names of the groups to scan; all prunable ones by default.
        limit: Use this many control images; None uses all.
        amp: Score in bfloat16, the unpruned network too: faster where the processor has instructions for it.
        seed: Of criterion and recovery.
        path: File that the scan is written to after every group; if it exists, the scan goes on from there.
        on_step: Told the group's name and the share done, before every score.

    Raises:
        UserError: a rate outside [0, 1], an unknown group, or a file of another scan.
    """
    network = network or problem.base()
    rates = tuple(sorted({check_rate("rate", float(rate)) for rate in rates}))
    chosen = network.groups.prunable if groups is None else [network.groups[name] for name in groups]
    settings = {
        "weights": fingerprint(network.model.state_dict()),
        "data": problem.data.fingerprint,
        "plan": network.plan.to_json(),
        "criterion": criterion,
        "recovery": recovery,
        "limit": limit,
        "amp": amp,
        "seed": seed,
    }
    found = _previous(path, settings, rates)
    scorer = _Scorer(problem, network, recovery, limit, seed, amp=amp)
    if found is None:
        found = Sensitivity(settings, scorer.baseline(), rates)
    todo = scorer.in_order([group for group in chosen if group.name not in found.scores])
    ranking = problem.scores(criterion, network, seed=seed) if todo else {}
    for done, group in enumerate(todo):
        tell = partial(_tell, on_step, group.name, done, len(todo))
        found.scores[group.name], found.removed[group.name] = scorer.curve(group, rates, ranking, found.baseline, tell)
        if path is not None:
            write_json(path, found.to_json())
    _tell(on_step, "done", 1, 1, 0.0)
    return found.ordered(network.groups.names)


def _tell(on_step: Callable[[str, float], None] | None, name: str, done: int, groups: int, share: float) -> None:
    if on_step is not None:
        on_step(name, (done + share) / groups)


def read_scan(path: Path, problem: PruningProblem, network: Network, groups: Sequence[str]) -> Sensitivity:
    """A scan written before, of this very network on this very control split.

    Criterion and recovery may be others than those it is read for: they only shape the curves.

    Raises:
        UserError: no such file, a scan of something else, or one that lacks some of `groups`.
    """
    found = Sensitivity.read(path)
    missing = [name for name in groups if name not in found.scores]
    if found.settings.get("data") != problem.data.fingerprint:
        raise UserError(
            f"{path} was made on other images; give the --data, --seed, --control-size, --control-from and "
            "--calibration-size it was made with, or scan again"
        )
    if found.settings.get("weights") != fingerprint(network.model.state_dict()):
        raise UserError(f"{path} is the scan of another network; scan this one with `rlprune sensitivity`")
    if missing:
        raise UserError(f"{path} has no scores of {missing[0]!r}; finish the scan with --resume, or scan more --groups")
    return found


def _previous(path: Path | None, settings: dict[str, Any], rates: tuple[float, ...]) -> Sensitivity | None:
    if path is None or not path.exists():
        return None
    found = Sensitivity.read(path)
    if found.settings != settings or found.rates != rates:
        raise UserError(f"{path} holds another scan (other settings or rates); delete it or name another file")
    return found


class _Scorer:
    """Scores variants of one network that differ in one group."""

    def __init__(
        self,
        problem: PruningProblem,
        network: Network,
        recovery: str,
        limit: int | None,
        seed: int,
        *,
        amp: bool = False,
    ) -> None:
        control = problem.data.control
        self.problem, self.network, self.seed = problem, network, seed
        self.evaluator = problem.evaluator
        if amp:
            self.evaluator = Evaluator(
                problem.task, problem.data, device=str(problem.device), ledger=problem.ledger, amp=True
            )
        self.recovery = make_recovery(recovery)
        self.split = control if limit is None else control.first(limit)
        self._cache: PrefixCache | None = None
        if LOCAL.issuperset(self.recovery.names):
            self.evaluator.settled(network.model)
            self._folds = foldable(network.model, problem.example_inputs)
            self._folded = folded(network.model, self._folds)
            self._cache = PrefixCache(self._folded, problem.example_inputs, self._calls)

    def baseline(self) -> float:
        return self.evaluator.score_split(self.network.model, self.split).value

    def curve(
        self,
        group: ChannelGroup,
        rates: Sequence[float],
        ranking: Mapping[str, NDArray[np.float64]],
        baseline: float,
        tell: Callable[[float], None],
    ) -> tuple[list[float], list[int]]:
        """The score at every rate, and how many filters that is."""
        counts = [group.allowed(removed_by_scan(group.size, rate)) for rate in rates]
        plans = {count: PruningPlan({group.name: lowest(ranking[group.name], count)}) for count in set(counts) if count}
        scores = {0: baseline, **self.scores(group, plans, tell)}
        return [scores[count] for count in counts], counts

    def in_order(self, groups: list[ChannelGroup]) -> list[ChannelGroup]:
        """In the order in which the cache moves."""
        cache = self._cache
        return groups if cache is None else sorted(groups, key=lambda group: cache.position(_touched(group)))

    def scores(
        self, group: ChannelGroup, plans: Mapping[int, PruningPlan], tell: Callable[[float], None]
    ) -> dict[int, float]:
        """Score by count; `tell` hears the share done."""
        if self._cache is not None and plans:
            with self.evaluator.precision():
                self._cache.advance(_touched(group), _sliced(self.network.model, group))
        found: dict[int, float] = {}
        for count, plan in plans.items():
            tell(len(found) / len(plans))
            after = self.network.remove(plan, self.problem.groups)
            self.recovery.apply(self.network, after, plan, self.problem, self.seed)
            found[count] = self._score(after.model, group, plan).value
        return found

    def _kept(self, group: ChannelGroup, plan: PruningPlan) -> dict[str, tuple[int, torch.Tensor]]:
        """Output axis and channels left of the modules whose output only loses channels."""
        kept = self.network.groups.kept(plan)
        return {
            module: (axis, torch.from_numpy(kept[tensor, dim]).to(self.problem.device))
            for module, (axis, tensor, dim) in _sliced(self.network.model, group).items()
        }

    def _score(self, model: nn.Module, group: ChannelGroup, plan: PruningPlan) -> Score:
        problem, cache = self.problem, self._cache
        if cache is None:
            return self.evaluator.score_split(model, self.split)
        fold(model.eval(), self._folds, self._folded, _touched(group))
        kept = self._kept(group, plan)
        with torch.inference_mode(), self.evaluator.precision(), cache.attached(model, kept) as select:
            score = problem.task.score(model, self._selecting(select))
        problem.ledger.evaluations += 1
        problem.ledger.images_evaluated += score.n
        return score

    def _batches(self) -> Iterator[Batch]:
        return self.evaluator.batches(self.split)

    def _calls(self) -> Iterator[tuple[Any, ...]]:
        return (self.problem.task.inputs(batch) for batch in self._batches())

    def _selecting(self, select: Callable[[int], None]) -> Iterator[Batch]:
        for number, batch in enumerate(self._batches()):
            select(number)
            yield batch


def _touched(group: ChannelGroup) -> set[str]:
    """Modules that hold any of a group's tensors."""
    return {slot.tensor.rpartition(".")[0] for slot in group.slots}


def _sliced(model: nn.Module, group: ChannelGroup) -> dict[str, tuple[int, str, int]]:
    """Modules that make the group's channels and do nothing else to it: (output axis, tensor, its axis) by name.

    Until a consumer runs, their outputs are those of the unpruned network without the removed channels. A norm over
    channels breaks that for the whole group.
    """
    found: dict[str, tuple[int, str, int]] = {}
    readers = {slot.tensor.rpartition(".")[0] for slot in group.slots if slot.role == "in"}
    for slot in group.slots:
        name = slot.tensor.rpartition(".")[0]
        if name in readers:
            continue
        module = model.get_submodule(name)
        if isinstance(module, nn.Linear):
            axis = -1
        elif isinstance(module, _BatchNorm) or (isinstance(module, Unfoldable) and not _splits(module)):
            axis = 1
        else:
            return {}
        found[name] = (axis, slot.tensor, slot.dim)
    return found


def _splits(module: nn.Module) -> bool:
    """Whether a transposed conv has groups: its weight then does not say all its output channels."""
    return bool(getattr(module, "transposed", False)) and getattr(module, "groups", 1) > 1
