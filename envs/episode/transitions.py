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
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlprune.artifact import fingerprint
from rlprune.channels import PruningPlan
from rlprune.criteria.errors import error_curves
from rlprune.envs.episode.cache import ScoreStore
from rlprune.network import Network
from rlprune.problem import PruningProblem
from rlprune.recovery import Recovery
from rlprune.tasks import Score


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
        self._build = _built
        return network

    @classmethod
    def of(cls, network: Network, data: str) -> NetworkState:
        """The state of a network at hand; `data` is the fingerprint of what it is scored on."""
        return cls(combine(fingerprint(network.model.state_dict()), data), network.plan, lambda: network)


def _built() -> Network:
    raise AssertionError("the network is built already")


@dataclass(eq=False)
class Transitions:
    """Removes, recovers and scores.

    Attributes:
        problem: What is pruned.
        recovery: What repairs a network after a removal.
        recovery_key: Everything that determines what `recovery` does, as text.
        store: Where scores are looked up and kept.
    """

    problem: PruningProblem
    recovery: Recovery
    recovery_key: str
    store: ScoreStore

    def base(self) -> NetworkState:
        """The unpruned network."""
        return NetworkState.of(self.problem.base(), self.problem.data.fingerprint)

    def after(self, state: NetworkState, plan: PruningPlan, seed: int) -> NetworkState:
        """The state after `plan` (numbered as `state`'s network is) and the recovery."""

        def build() -> Network:
            before = state.network
            after = before.remove(plan, self.problem.groups)
            self.recovery.apply(before, after, plan, self.problem, seed)
            return after

        key = combine(state.key, plan.to_json(), self.recovery_key, seed)
        whole = state.plan.then(plan, self.problem.groups)
        return NetworkState(key, whole, build, state.key, plan.counts)

    def score(self, state: NetworkState) -> Score:
        """The state's score on the control split."""
        found = self.store.get(state.key)
        if found is None:
            found = self.problem.evaluator.score(state.network.model, "control")
            self.store.put(state.key, found, state.parent, state.removed)
        return found

    def error_curves(
        self, state: NetworkState, names: Sequence[str], scores: Mapping[str, NDArray[np.float64]]
    ) -> Mapping[str, NDArray[np.float64]]:
        """What groups cost their readers; see `rlprune.criteria.errors`. None is given for groups it cannot be had of.

        Collects Gram matrices unless the recovery has done so.
        """
        network = state.network
        grams = self.problem.measured.grams(network, self.problem)
        return error_curves(network.model, network.groups, names, scores, grams)

    def latency(self, state: NetworkState) -> float:
        """Median seconds of a forward pass of one example, measured now."""
        from rlprune.cost import measure_latency

        return float(measure_latency(state.network.model, *self.problem.example_inputs).median_s)
