"""How an agent does without drawing: beside the rules, on what it was trained on, and on what it was not."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from stable_baselines3.common.callbacks import BaseCallback

from rlprune.agents.controllers.base import Controller, run_episode
from rlprune.agents.controllers.error import LeastError
from rlprune.agents.controllers.fixed import Uniform
from rlprune.agents.rl.sb3 import TrainedAgent, load_weights
from rlprune.envs import MixedPruningEnv
from rlprune.files import write_archive, write_text
from rlprune.seeding import streams_untouched

BEST, CURVE = "best.zip", "curve.jsonl"  # the best agent so far, and a line for every evaluation


def goals_of(env: gymnasium.Env[Any, Any]) -> list[dict[str, Any]]:
    """Every network and budget of an environment, as options of `reset`."""
    inner = env.unwrapped
    if not isinstance(inner, MixedPruningEnv):
        return [{}]
    found = []
    for number, within in enumerate(inner.within):
        for kind, budgets in within.items():
            goal = {"problem": number, **({"counted": kind} if len(within) > 1 else {})}
            found += [goal] if inner.budgets is None else [{**goal, "budget": budget} for budget in budgets]
    return found


def evaluate(
    agent: TrainedAgent, env: gymnasium.Env[Any, Any], seed: int
) -> tuple[list[dict[str, Any]], dict[str, list[float]]]:
    """The agent's deterministic schedule beside the uniform one and the rule `error`, for every network and goal.

    Returns:
        A line for each, and `low` and `high`: the bounds (features,) of what the agent saw in these episodes.
    """
    results, watched = [], _Watched(agent)
    controllers: dict[str, Controller] = {"agent": watched, "error": LeastError(), "uniform": Uniform()}
    for goal in goals_of(env):
        line: dict[str, Any] = dict(goal)
        for name, controller in controllers.items():
            episode = run_episode(env, controller, seed=seed, options=goal or None)
            line[name] = {"reward": episode.total_reward, "score": episode.info["final_score"]}
            if name == "agent":
                line["macs_share"] = episode.info["final_macs_share"]
        results.append(line)
    seen = np.array(watched.seen, dtype=np.float64).round(4)
    return results, {"low": seen.min(axis=0).tolist(), "high": seen.max(axis=0).tolist()}


def gain(lines: Sequence[dict[str, Any]], over: str = "error") -> float:
    """The mean of the agent's score minus that of a rule."""
    return float(np.mean([line["agent"]["score"] - line[over]["score"] for line in lines]))


class _Watched:
    """An agent, and what it sees."""

    def __init__(self, agent: TrainedAgent) -> None:
        self.agent, self.seen = agent, list[Any]()

    def predict(
        self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = True
    ) -> tuple[Any, Any]:
        """The agent's action."""
        self.seen.append(np.array(observation))
        return self.agent.predict(observation, state, episode_start, deterministic)


class Watch(BaseCallback):
    """Evaluates the agent on networks that it is not trained on, and ends a training that has stopped to get better.

    Args:
        env: Those networks.
        folder: Of the training; the best agent so far is kept there.
        around: What the agent's action 0 stands for.
        every: Time steps between two evaluations.
        patience: Evaluations without a better one after which the training ends; 0 trains to its end.
        seed: Of the training.

    Attributes:
        curve: Of every evaluation `timesteps`, and the mean gain over the rule `error` and over uniform.
    """

    def __init__(
        self, env: gymnasium.Env[Any, Any], folder: Path, around: str, every: int, patience: int, seed: int
    ) -> None:
        super().__init__()
        self.env, self.folder, self.around, self.every = env, folder, around, every
        self.patience, self.seed = patience, seed
        self.curve: list[dict[str, float]] = []

    @property
    def best(self) -> dict[str, float] | None:
        """The best evaluation, the first of them."""
        return max(self.curve, key=lambda line: line["over_error"], default=None)

    def _on_rollout_start(self) -> None:
        if self.num_timesteps >= (self.curve[-1]["timesteps"] if self.curve else 0) + self.every:
            self.look()

    def _on_step(self) -> bool:
        best = self.best
        since = 0 if best is None else len(self.curve) - 1 - self.curve.index(best)
        return not self.patience or since < self.patience

    def look(self) -> None:
        """Evaluate now."""
        with streams_untouched():
            lines, _ = evaluate(TrainedAgent(self.model, {"around": self.around}), self.env, self.seed)
        found = {"over_error": gain(lines), "over_uniform": gain(lines, "uniform")}
        self.curve.append({"timesteps": self.num_timesteps, **found})
        for name, value in found.items():
            self.logger.record(f"watched/{name}", value)
        if self.best is self.curve[-1]:
            buffer = io.BytesIO()
            self.model.save(buffer)
            write_archive(self.folder / BEST, buffer)
        write_text(self.folder / CURVE, "".join(json.dumps(line) + "\n" for line in self.curve))

    def resume(self, timesteps: int) -> None:
        """Take in the evaluations up to where the training goes on; what came after is done again, and equal."""
        file = self.folder / CURVE
        lines = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
        self.curve = [line for line in lines if line["timesteps"] <= timesteps]

    def take_best(self) -> None:
        """Evaluate at the end, and go back to the best evaluation's agent."""
        if not self.curve or self.curve[-1]["timesteps"] < self.num_timesteps:
            self.look()
        self.env.close()
        load_weights(self.model, self.folder / BEST)
