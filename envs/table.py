"""Recorded scores served as an environment, so that algorithms can be tuned at thousands of steps a second."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlprune.channels import ChannelGroups, PruningPlan
from rlprune.envs.env import FilterPruningEnv
from rlprune.envs.episode.cache import ScoreCache
from rlprune.envs.episode.offline import OfflineTransitions
from rlprune.envs.rules import Rules
from rlprune.errors import UserError, reading
from rlprune.files import read_json, write_json
from rlprune.tasks import Score
from rlprune.typed import from_table

FORMAT = "rlprune-table-3"
NEIGHBOURS = 8


@dataclass(frozen=True, eq=False)
class ScoreTable:
    """Scores of schedules of one network, with all that an episode needs to know of it.

    Attributes:
        groups: The unpruned network's groups.
        names: The groups in which the schedules differ, n of them.
        ranking: The criterion's score of every filter, by group.
        curves: What the groups cost their readers at every count, by group, as far as that can be known.
        baseline: The unpruned network's score.
        rules: The rules under which the scores were recorded.
        counts: What the K schedules remove, (K, n).
        values: Their scores (K,).
    """

    groups: ChannelGroups
    names: tuple[str, ...]
    ranking: dict[str, NDArray[np.float64]]
    curves: dict[str, NDArray[np.float64]]
    baseline: Score
    rules: Rules
    counts: NDArray[np.int64]
    values: NDArray[np.float64]

    @classmethod
    def record(cls, env: FilterPruningEnv, cache: ScoreCache) -> ScoreTable:
        """What `cache` holds for the first round of `env`: its network, criterion, recovery and seed.

        Raises:
            UserError: If it holds nothing for it.
        """
        env.reset()
        names, rows, values = env.scope.names, [], []
        for key, removed, score in cache.children(env.state_key):
            if env.key_of(removed) == key:
                rows.append([removed.get(name, 0) for name in names])
                values.append(score.value)
        if not rows:
            raise UserError(f"{cache.path} holds no score of this environment; run episodes with it as cache first")
        counts = np.array(rows, dtype=np.int64)
        return cls(
            env.problem.groups, names, env.scores, dict(env.curves), env.baseline, env.rules, counts, np.array(values)
        )

    def save(self, path: str | Path) -> None:
        """Write the table as JSON."""
        content = {
            "format": FORMAT,
            "groups": self.groups.to_json(),
            "names": list(self.names),
            "ranking": {name: scores.tolist() for name, scores in self.ranking.items()},
            "curves": {name: curve.tolist() for name, curve in self.curves.items()},
            "baseline": self.baseline.to_json(),
            "rules": self.rules.to_json(),
            "counts": self.counts.tolist(),
            "values": self.values.tolist(),
        }
        write_json(Path(path), content)

    @classmethod
    def load(cls, path: str | Path) -> ScoreTable:
        """Read what `save` wrote; raises UserError for anything else."""
        content = read_json(Path(path))
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise UserError(f"{path} is not a table of scores; ScoreTable.record(env, cache).save(path) writes one")
        with reading(path, "a table of scores"):
            return cls(
                ChannelGroups.from_json(content["groups"]),
                tuple(content["names"]),
                {name: np.array(scores, dtype=np.float64) for name, scores in content["ranking"].items()},
                {name: np.array(curve, dtype=np.float64) for name, curve in content["curves"].items()},
                Score(**content["baseline"]),
                from_table(Rules, content["rules"], "the rules"),
                np.array(content["counts"], dtype=np.int64),
                np.array(content["values"], dtype=np.float64),
            )

    @cached_property
    def _exact(self) -> dict[bytes, float]:
        return {row.tobytes(): float(value) for row, value in zip(self.counts, self.values, strict=True)}

    @cached_property
    def _sizes(self) -> NDArray[np.float64]:
        return np.array([self.groups[name].size for name in self.names], dtype=np.float64)

    @cached_property
    def _rates(self) -> NDArray[np.float64]:
        return np.vstack([np.zeros(len(self.names)), self.counts / self._sizes])

    @cached_property
    def _known(self) -> NDArray[np.float64]:
        return np.concatenate([[self.baseline.value], self.values])

    def score(self, removed: Mapping[str, int]) -> float:
        """The recorded score of a schedule, or else the mean of its nearest ones, weighted by inverse distance."""
        counts = np.array([removed.get(name, 0) for name in self.names], dtype=np.int64)
        found = self._exact.get(counts.tobytes())
        if found is not None:
            return found
        distance = ((self._rates - counts / self._sizes) ** 2).sum(1)
        if len(distance) > NEIGHBOURS:
            near = np.argpartition(distance, NEIGHBOURS)[:NEIGHBOURS]
            weights, values = 1.0 / (distance[near] + 1e-12), self._known[near]
        else:
            weights, values = 1.0 / (distance + 1e-12), self._known
        return float(weights @ values / weights.sum())


class TablePruningEnv(FilterPruningEnv):
    """`rlprune/LayerwisePruning-v0` on recorded scores: equal spaces, windows, observations and rewards; no network.

    A schedule that was recorded scores as recorded, any other as its nearest ones.

    Args:
        table: File that `ScoreTable.save` wrote.
        reward, budget, tolerance, max_rate, dense: As in `FilterPruningEnv`; None takes what was recorded.
        render_mode: As in `FilterPruningEnv`.
    """

    def __init__(
        self,
        table: str,
        *,
        reward: str | None = None,
        budget: float | None = None,
        tolerance: float | None = None,
        max_rate: float | None = None,
        dense: bool = False,
        render_mode: str | None = None,
    ) -> None:
        recorded = ScoreTable.load(table)
        baseline = recorded.baseline
        changes: dict[str, Any] = {"reward": reward, "budget": budget, "tolerance": tolerance, "max_rate": max_rate}
        changes = {name: value for name, value in changes.items() if value is not None}
        rules = replace(recorded.rules, one_shot=True, rounds=None, dense=dense, **changes)

        def lookup(plan: PruningPlan) -> Score:
            return replace(baseline, value=recorded.score(plan.counts), loss=None) if plan else baseline

        transitions = OfflineTransitions(recorded.groups, baseline, recorded.ranking, recorded.curves, lookup)
        self._setup(transitions, rules.check(), render_mode)
