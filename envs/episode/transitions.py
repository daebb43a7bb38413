"""From one network to the next: remove, recover, score; each only when somebody asks for it.

A state is known by its key, a hash of everything it came from (base weights, data, every plan, recovery, seeds). So a
score that was computed before is found again without building the network.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, is_dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from rlprune.artifact import fingerprint
from rlprune.channels import PruningPlan
from rlprune.cost import measure_latency
from rlprune.criteria.errors import error_curves
from rlprune.envs.episode.cache import MemoryScores
from rlprune.envs.episode.damage import Ranking
from rlprune.errors import UserError
from rlprune.network import Network
from rlprune.problem import PruningProblem
from rlprune.recovery import make_recovery
from rlprune.scoring.racing import Race
from rlprune.scoring.response import FULLER, OutputChange, response_curves
from rlprune.tasks import Score
from rlprune.training.loop import train
from rlprune.training.settings import TrainSettings


def combine(*parts: Any) -> str:
    """A hash of plain values and frozen dataclasses."""
    plain = [asdict(part) if is_dataclass(part) and not isinstance(part, type) else part for part in parts]
    return hashlib.sha256(json.dumps(plain, sort_keys=True, default=repr).encode()).hexdigest()


@dataclass(eq=False)
class NetworkState:
    """A network that is built when it is first looked at.

    Attributes:
        key: Hash of everything that determines it.
        plan: All that was removed from the base network.
        parent: Key of the network it was made from, if it was made here.
        removed: Counts that were taken from that one.
    """

    key: str
    plan: PruningPlan
    _build: Callable[[], Network] = field(repr=False)
    parent: str = ""
    removed: Mapping[str, int] = field(default_factory=dict)

    @cached_property
    def network(self) -> Network:
        """The network."""
        network = self._build()
        del self._build  # and what it holds on to
        return network

    @classmethod
    def of(cls, network: Network, data: str) -> NetworkState:
        """The state of a network at hand; `data` is the fingerprint of what it is scored on."""
        return cls(combine(fingerprint(network.model.state_dict()), data), network.plan, lambda: network)


class Repairs(Protocol):
    """What repairs a network after a removal, as `rlprune.recovery.Recovery` does."""

    @property
    def key(self) -> str:
        """What it does now, as text: equal keys mean equal repairs. Read at every removal."""
        ...

    def apply(self, before: Network, after: Network, plan: PruningPlan, problem: PruningProblem, seed: int) -> None:
        """Repair `after.model` in place; everything else stays as it is."""
        ...


def repairing(recovery: str | Repairs, settings: TrainSettings | None = None) -> Repairs:
    """The recovery of that name, or the one given; raises UserError for what is neither."""
    if isinstance(recovery, str):
        return make_recovery(recovery, settings or TrainSettings())
    if not (hasattr(recovery, "apply") and hasattr(recovery, "key")):
        raise UserError(
            f"recovery is a {type(recovery).__name__}; give a name, as in 'lsq+bn', or an object with apply and key"
        )
    return recovery


@dataclass(eq=False)
class Transitions:
    """Removes, recovers, trains and scores.

    Attributes:
        problem: What is pruned.
        recovery: What repairs a network after a removal.
        store: Where scores are looked up and kept.
        owned: Whether the problem was made for environments, so that what was measured on it goes when one closes.
    """

    problem: PruningProblem
    recovery: Repairs
    store: MemoryScores
    owned: bool = False
    _last: NetworkState | None = field(default=None, init=False, repr=False)
    _outputs: tuple[str, OutputChange] | None = field(default=None, init=False, repr=False)

    def base(self) -> NetworkState:
        """The unpruned network."""
        return self.state_of(self.problem.base())

    def after(self, state: NetworkState, plan: PruningPlan, seed: int, recovery: Repairs | None = None) -> NetworkState:
        """The state after `plan` (numbered as `state`'s network is) and the recovery, or another one."""
        recovery = recovery or self.recovery

        def build() -> Network:
            before = state.network
            after = before.remove(plan, self.problem.groups)
            recovery.apply(before, after, plan, self.problem, seed)
            return after

        key = combine(state.key, plan.to_json(), recovery.key, seed)
        if self._last is None or self._last.key != key:  # what was looked at last is often what is done
            whole = state.plan.then(plan, self.problem.groups)
            self._last = NetworkState(key, whole, build, state.key, plan.counts)
        return self._last

    def trained(
        self,
        state: NetworkState,
        settings: TrainSettings,
        penalties: Sequence[Callable[[nn.Module], Tensor]],
        seed: int,
        on_step: Callable[[float], None] | None,
    ) -> NetworkState:
        """A copy of the state's network, trained; see `rlprune.recovery.train`."""
        network, problem = state.network.copy(), self.problem
        train(
            network.model,
            problem.task,
            problem.data.train,
            settings,
            seed=seed,
            penalties=penalties,
            on_step=on_step,
            device=str(problem.device),
            ledger=problem.ledger,
        )
        return self.state_of(network)

    def state_of(self, network: Network) -> NetworkState:
        """The state of a network at hand."""
        return NetworkState.of(network, self.problem.data.fingerprint)

    def scores(self, criterion: str, state: NetworkState, seed: int) -> dict[str, NDArray[np.float64]]:
        """The importance of every filter, by group."""
        return self.problem.scores(criterion, state.network, seed=seed)

    def score(self, state: NetworkState) -> Score:
        """The state's score on the control split."""
        found = self.store.get(state.key, self.problem.baseline)
        if found is None:
            found = self.problem.evaluator.score(state.network.model, "control")
            self.store.put(state.key, found, state.parent, state.removed)
        return found

    @cached_property
    def race(self) -> Race | None:
        """Where candidates are scored only as far as they may win; None where that cannot be."""
        return Race.over(self.problem.evaluator, self.problem.baseline, self.problem.seed)

    def measure(self, kind: str, ranking: Ranking, state: NetworkState, names: Sequence[str], seed: int) -> None:
        """Add the curves of a kind to a ranking of the state's network, if they are not there.

        `error` is the readers', `outputs` the network's, `response` the geometric mean of both. Collects Gram matrices
        unless the recovery has done so. Where outputs cannot be compared, errors stand in.
        """
        network, scores, curves = state.network, ranking.scores, ranking.curves
        if "error" not in curves:
            grams = self.problem.measured.grams(network, self.problem)
            curves["error"] = error_curves(network.model, network.groups, names, scores, grams)
        if kind not in curves:
            errors = curves["error"]
            found = response_curves(OutputChange(self.problem, network, seed), names, scores, errors)
            curves["outputs"] = found or errors
            curves["response"] = {name: np.sqrt(errors[name] * curve) for name, curve in found.items()} or errors

    def change(self, state: NetworkState, plan: PruningPlan, seed: int) -> float:
        """What `plan` changes the outputs of the state's network by (`OutputChange`)."""
        if self._outputs is None or self._outputs[0] != state.key:
            self._outputs = state.key, OutputChange(self.problem, state.network, seed, FULLER)
        return self._outputs[1].after(plan)

    def latency(self, state: NetworkState) -> float:
        """Median seconds of a forward pass of one example, measured now."""
        return float(measure_latency(state.network.model, *self.problem.example_inputs).median_s)

    def leave(self, state: NetworkState) -> None:
        """Free what was measured on a network that is not gone back to."""
        if self._outputs is not None and self._outputs[0] == state.key:
            self._outputs = None
        self.problem.forget(state.network)

    def close(self) -> None:
        """Let go of the store's files, and of what was measured on a problem that is nobody else's."""
        self.store.close()
        self._last = self._outputs = None
        if self.owned:
            self.problem.forget()
