"""Scores on disk: exact, shared, and safe under concurrent writers."""

from __future__ import annotations

import multiprocessing
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlprune.envs import FilterPruningEnv, Rules
from rlprune.envs.arguments import shared_problem
from rlprune.envs.episode.cache import ScoreCache
from rlprune.errors import UserError
from rlprune.problem import PruningProblem
from rlprune.recovery import make_recovery
from rlprune.spec import ProblemSpec
from rlprune.tasks import Score


def write_many(path: Path, first: int) -> None:
    cache = ScoreCache(path)
    for number in range(first, first + 200):
        cache.put(f"{number % 300}", Score((number % 300) / 300, 300), parent="p", removed={"g": number % 300})


def test_concurrent_writers_lose_nothing_and_values_are_exact(tmp_path: Path) -> None:
    path = tmp_path / "scores.sqlite"
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=write_many, args=(path, first)) for first in (0, 100, 200)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    cache = ScoreCache(path)
    assert len(cache) == 300
    for number in range(300):
        found = cache.get(str(number))
        assert found is not None and found.value == number / 300
    assert sorted(removed["g"] for _, removed, _ in cache.children("p")) == list(range(300))
    assert cache.get("none") is None


def test_something_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "scores.sqlite"
    path.write_text("these are no scores, and that should be said rather than overwritten " * 20)
    with pytest.raises(UserError, match="another file"):
        ScoreCache(path)


@pytest.fixture(scope="module")
def problem() -> PruningProblem:
    return shared_problem(ProblemSpec(control_size=200, calibration_size=128))


def play(
    problem: PruningProblem, cache: Path | None, recovery: Any = "lsq+bn-delta", **rules: Any
) -> tuple[list[float], int]:
    settings = Rules(**{"one_shot": True, "budget": 0.5, "reward": "accuracy", "max_rate": 0.9, **rules})
    env = FilterPruningEnv.from_problem(
        problem, settings, recovery=recovery, cache=None if cache is None else str(cache)
    )
    before, scores = problem.ledger.evaluations, []
    for episode in range(3):
        env.reset()
        over = False
        while not over:
            _, _, over, _, info = env.step(np.array([0.3 * episode], dtype=np.float32))
        scores.append(info["score"])
    return scores, problem.ledger.evaluations - before


def test_a_hit_is_a_fresh_evaluation_bit_for_bit_and_costs_none(problem: PruningProblem, tmp_path: Path) -> None:
    path = tmp_path / "scores.sqlite"
    fresh, _ = play(problem, None)
    first, made = play(problem, path)
    again, repeated = play(problem, path)
    assert fresh == first == again
    assert (made, repeated) == (3, 0)


@pytest.mark.parametrize("rules", [{"criterion": "l2"}, {"seed": 1, "criterion": "random"}, {"budget": 0.4}])
def test_what_could_differ_has_another_key(problem: PruningProblem, tmp_path: Path, rules: dict[str, Any]) -> None:
    path = tmp_path / "scores.sqlite"
    play(problem, path)
    settings = {"criterion": "random", **rules}
    assert play(problem, path, **settings)[1] > 0


def test_a_recovery_at_hand_is_known_by_its_key(problem: PruningProblem, tmp_path: Path) -> None:
    path = tmp_path / "scores.sqlite"
    assert play(problem, path)[1] == 3
    assert play(problem, path, recovery=make_recovery("lsq+bn-delta"))[1] == 0
    assert play(problem, path, recovery=make_recovery("none"))[1] > 0
    with pytest.raises(UserError, match="an object with apply and key"):
        play(problem, path, recovery=3)


@pytest.mark.parametrize(
    "text",
    [
        '{"value": NaN, "n": 200}',
        '{"value": 7.5, "n": 200, "metric": "accuracy", "loss": null, "details": {}}',
        "not JSON",
        "[1]",
    ],
)
def test_a_row_that_no_evaluation_wrote_is_not_believed(problem: PruningProblem, tmp_path: Path, text: str) -> None:
    path = tmp_path / "scores.sqlite"
    first, _ = play(problem, path)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE scores SET score = ?", (text,))
    assert play(problem, path) == (first, 3)
    assert play(problem, path) == (first, 0), "and what was damaged is written anew"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 7.5, -0.1])
def test_a_score_that_cannot_be_is_not_believed(problem: PruningProblem, tmp_path: Path, value: float) -> None:
    path = tmp_path / "scores.sqlite"
    first, _ = play(problem, path)
    with closing(ScoreCache(path)) as cache:
        with closing(sqlite3.connect(path)) as connection:
            keys = [key for (key,) in connection.execute("SELECT key FROM scores")]
        for key in keys:
            cache.put(key, Score(value, 200))
    assert play(problem, path) == (first, 3)
