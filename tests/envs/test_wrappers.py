"""Other ways to act keep the environment's promises, and records say what was done."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rlprune.envs import DiscreteRates, RecordEpisode, WholeNetworkAction
from rlprune.envs.toy import ToyPruningEnv
from rlprune.envs.wrappers import pruning_env
from rlprune.errors import UserError


@given(st.lists(st.floats(-1, 1), min_size=8, max_size=8), st.sampled_from([0.3, 0.5, 0.8]))
@settings(max_examples=50, deadline=None)
@example([-0.5, 0.0, 0.0, -0.5, -0.5, -0.5, 0.0, -1.0], 0.3)
@example([0.0, 0.0, 1.0, 1.0, 0.0, 1.0, 0.5, 1.0], 0.8)
def test_any_vector_meets_the_budget_and_proportions_are_kept(vector: list[float], budget: float) -> None:
    env = WholeNetworkAction(ToyPruningEnv(budget=budget))
    env.reset()
    _, reward, terminated, truncated, info = env.step(np.array(vector))
    assert (terminated, truncated) == (True, False)
    assert info["final_macs_share"] <= budget and isinstance(reward, float)
    rates = np.array(list(info["rates"].values()))
    budget_of = pruning_env(env).budget
    most = budget_of.most / budget_of.sizes  # rounded down to whole filters, so not the same for all
    free = [i for i, rate in enumerate(rates) if 0.05 < rate < most[i] and vector[i] > -0.9]
    for i in free:
        for j in free:
            if vector[i] > vector[j] + 0.4:
                assert rates[i] + 1 / budget_of.sizes[i] >= rates[j] - 1e-9  # a filter may be handed back


@pytest.mark.parametrize("entry", [-0.5, 0.0, 0.9])
def test_a_constant_vector_is_the_uniform_schedule(entry: float) -> None:
    env = WholeNetworkAction(ToyPruningEnv())
    env.reset()
    info = env.step(np.full(8, entry))[4]
    rates = list(info["rates"].values())
    assert max(rates) - min(rates) <= 1 / 16
    one = WholeNetworkAction(ToyPruningEnv(), mode="global")
    one.reset()
    assert one.step(np.array([entry]))[4]["rates"] == info["rates"]


def test_the_middle_level_is_the_uniform_rate_and_the_ends_are_the_windows() -> None:
    env = DiscreteRates(ToyPruningEnv(), levels=5)
    inner = pruning_env(env)
    env.reset()
    for level, wanted in ((0, inner.window[0]), (4, inner.window[1])):
        env.reset()
        assert env.step(level)[4]["rate"] == wanted
    env.reset()
    uniform = inner.uniform_rate
    assert env.step(2)[4]["rate"] == pytest.approx(uniform, abs=0.5 / 16)
    with pytest.raises(UserError, match="odd"):
        DiscreteRates(ToyPruningEnv(), levels=4)


def test_every_finished_episode_is_recorded_and_none_is_overwritten(tmp_path: Path) -> None:
    for _ in range(2):
        env = RecordEpisode(ToyPruningEnv(), str(tmp_path))
        for action in (0.0, 0.5):
            env.reset()
            over = False
            while not over:
                _, _, over, _, info = env.step(np.array([action], dtype=np.float32))
        env.reset()
        env.step(np.zeros(1, dtype=np.float32))  # not finished
    files = sorted(tmp_path.iterdir())
    assert [path.name for path in files] == [f"episode-{n:06d}.json" for n in range(4)]
    record = json.loads(files[-1].read_text())
    assert record["final"]["plan"] == info["plan"]
    assert [step["action"] for step in record["steps"]] == [[0.5]] * 8
    assert record["rounds"][0]["rates"] == {step["group"]: step["rate"] for step in record["steps"]}


def test_mistakes_are_named() -> None:
    with pytest.raises(UserError, match="did you mean 'vector'"):
        WholeNetworkAction(ToyPruningEnv(), mode="vectr")
    env = WholeNetworkAction(ToyPruningEnv())
    env.reset()
    with pytest.raises(UserError, match="NaN"):
        env.step(np.full(8, np.nan))
    import gymnasium

    with pytest.raises(UserError, match="not a pruning environment"):
        WholeNetworkAction(gymnasium.make("CartPole-v1"))
