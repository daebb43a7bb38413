"""`python runs/algorithms.py MODEL WEIGHTS DATA OUT`: algorithms of Stable-Baselines3 on one table of scores.

Scores SCHEDULES=400 schedules of a network at half of its MACs (a third drawn anywhere, a third around the rule
`error`, a third around the uniform rate; kept in OUT/scores.sqlite, so that it goes on where it was stopped), and
trains every algorithm on them for EPISODES=1000 episodes, around the advised and around the uniform rate, SEEDS=3
times. Each agent then plays one deterministic episode on the network itself. Prints a line of JSON for each, and for
the rules; scores are accuracies in % on the 1,000 control images.
"""

import json
import os
import sys
import time
from pathlib import Path

import numpy as np

from rlprune.agents import AgentSettings, make_controller, run_episode
from rlprune.agents.rl.training import train
from rlprune.envs import FilterPruningEnv, ScoreCache, ScoreTable
from rlprune.envs.registration import TABLE

ALGORITHMS = ("ppo", "sac", "td3")


def record(env: FilterPruningEnv, scores: Path, schedules: int) -> ScoreTable:
    """The scores of schedules drawn for `env`."""
    env.reset()
    generator, size = np.random.default_rng(0), len(env.prunable)
    uniform = np.full(size, env.uniform_rate)
    centres = (None, env.advised_rates("error"), uniform)
    for number in range(schedules):
        centre = centres[number % len(centres)]
        around = generator.normal(0.0, 0.15, size)
        rates = generator.uniform(0.0, env.rate_cap, size) if centre is None else np.clip(centre + around, 0.0, 1.0)
        env.preview(env.budget.repair(rates))
    return ScoreTable.record(env, ScoreCache(scores))


def main(model: str, weights: str, data: str, out: str) -> None:
    """Record, train, play, print."""
    folder, episodes = Path(out), int(os.environ.get("EPISODES", "1000"))
    folder.mkdir(parents=True, exist_ok=True)
    env = FilterPruningEnv(
        model=model, weights=weights, data=data, control_size=1000, calibration_size=512, skip=["residual"],
        recovery="lsq+bn-delta", budget=0.5, max_rate=0.8, one_shot=True, reward="accuracy",
        cache=str(folder / "scores.sqlite"),
    )  # fmt: skip
    table = record(env, folder / "scores.sqlite", int(os.environ.get("SCHEDULES", "400")))
    table.save(folder / "table.json")
    print(json.dumps({"schedules": len(table.values), "best": float(table.values.max())}), flush=True)
    for rule in ("uniform", "error", "response"):
        played = run_episode(env, make_controller(rule))
        print(json.dumps({"rule": rule, "score": round(100 * played.info["final_score"], 2)}), flush=True)
    for around in ("advice", "uniform"):
        for algorithm in ALGORITHMS:
            for seed in range(int(os.environ.get("SEEDS", "3"))):
                begin = time.process_time()
                game = {"table": str(folder / "table.json")}
                agent = train(AgentSettings(algorithm, TABLE, game, episodes=episodes, around=around, seed=seed))
                seconds = round(time.process_time() - begin, 1)
                played = run_episode(env, agent)
                line = {"algorithm": algorithm, "around": around, "seed": seed, "seconds": seconds}
                print(json.dumps({**line, "score": round(100 * played.info["final_score"], 2)}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
