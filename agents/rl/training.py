"""Train a controller agent with Stable-Baselines3, into a folder from which it can go on."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.logger import Logger, TensorBoardOutputFormat
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv

from rlprune.agents.controllers.base import run_episode
from rlprune.agents.controllers.fixed import Uniform
from rlprune.agents.rl.callbacks import EpisodeLog, OnEpisode, Segments, checkpoints, load_checkpoint
from rlprune.agents.rl.sb3 import DISCRETE, TrainedAgent, algorithm, load_agent, make_agent, preset, save_agent
from rlprune.envs import AroundAdvice, DiscreteRates, MixedPruningEnv
from rlprune.envs.registration import ITERATIVE, LAYERWISE, MIXED
from rlprune.errors import UserError, unknown_name
from rlprune.files import read_json, write_json, write_text
from rlprune.record import versions
from rlprune.seeding import derive

LEVELS = 11
CENTRES = ("advice", "uniform")
AGENT = "agent.zip"


@dataclass(frozen=True)
class AgentSettings:
    """Everything that decides what a training gives, in plain values.

    Attributes:
        algorithm: A name of `rlprune.agents.rl.sb3.ALGORITHMS`.
        env: Id of the environment.
        env_kwargs: Its arguments.
        timesteps: Steps to train for; None follows from `episodes`.
        episodes: Episodes to train for, over all workers; None follows from `timesteps`.
        workers: Environments that run at once, each in a process and with one torch thread; 1 stays in this process.
        seed: Of everything random.
        device: Where the agent's own network is; the pruned networks' device is an argument of the environment.
        preset: YAML file of hyperparameters in rl-zoo's format; None takes the one that comes with the package.
        hyperparameters: Changes to the preset.
        segment: Time steps between checkpoints, at least four episodes; None makes ten of them.
        around: What action 0 stands for: `advice` (the rate of least reconstruction error, so that an untrained agent
            plays the rule `error`), `uniform`, or None for `advice` except for `amc`, which had none.
        start_method: How worker processes start: `fork`, `forkserver`, `spawn`, or None for the platform's safest.
    """

    algorithm: str = "ppo"
    env: str = LAYERWISE
    env_kwargs: Mapping[str, Any] = field(default_factory=dict)
    timesteps: int | None = None
    episodes: int | None = 300
    workers: int = 1
    seed: int = 0
    device: str = "cpu"
    preset: str | None = None
    hyperparameters: Mapping[str, Any] = field(default_factory=dict)
    segment: int | None = None
    around: str | None = None
    start_method: str | None = None

    def __post_init__(self) -> None:
        algorithm(self.algorithm)
        if self.around not in (None, *CENTRES):
            raise unknown_name("around", str(self.around), CENTRES)
        if self.timesteps is None and self.episodes is None:
            raise UserError("neither timesteps nor episodes is given; give one of them")
        for name in ("timesteps", "episodes", "workers", "segment"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"{name} is {value}; it must be at least 1")

    def to_json(self) -> dict[str, Any]:
        """Plain values only."""
        return {**asdict(self), "env_kwargs": dict(self.env_kwargs), "hyperparameters": dict(self.hyperparameters)}

    @property
    def centre(self) -> str:
        """What action 0 stands for, of `CENTRES`."""
        return self.around or ("uniform" if self.algorithm == "amc" else "advice")

    def all_hyperparameters(self) -> dict[str, Any]:
        """The preset with its changes."""
        return {**preset(self.algorithm, self.env, self.preset), **self.hyperparameters}


def train(
    settings: AgentSettings,
    folder: str | Path,
    *,
    resume: bool = False,
    command: str = "",
    on_episode: OnEpisode | None = None,
) -> TrainedAgent:
    """Train an agent and write it into a folder.

    The folder gets `agent.zip` (Stable-Baselines3's own) and its card `agent.json`, `episodes.jsonl` with a line for
    every episode, TensorBoard events, and while the training runs a checkpoint. Scores are kept in `scores.sqlite`
    there unless the environment was given another `cache`.

    Args:
        settings: What to do.
        folder: Where to write. One that holds a training already is an error unless `resume` is set.
        resume: Go on from the last checkpoint: weights, optimizers, replay buffer, counters, random streams and the
            TensorBoard run go on as if there had been no stop.
        command: For the card.
        on_episode: Told of every episode: how many there were, and its line.

    Raises:
        UserError: For anything the user can mend.

    Example:
        >>> settings = AgentSettings("ppo", env_kwargs={"budget": 0.5}, episodes=100)
        >>> agent = train(settings, "runs/my-agent")  # doctest: +SKIP
    """
    folder = Path(folder)
    started = folder / "settings.json"
    if started.exists():
        if not resume:
            raise UserError(
                f"{folder} holds a training already; add --resume to go on with it, or choose another --out"
            )
        if read_json(started) != settings.to_json():
            raise UserError(f"the training in {folder} was started with other settings; --resume takes none of its own")
        if (folder / AGENT).exists() and (folder / "agent.json").exists():
            return load_agent(folder / AGENT, settings.device)
    longest = longest_episode(settings)  # builds the networks, and so finds mistakes before anything is written
    fresh = not folder.exists()
    env = make_vector_env(settings, folder)
    try:
        try:
            model = _untrained(settings, env)
        except UserError:
            if fresh:
                shutil.rmtree(folder, ignore_errors=True)  # the file of scores is there already
            raise
        write_json(started, settings.to_json())
        return _train(settings, folder, model, longest, command, on_episode)
    finally:
        env.close()


def _untrained(settings: AgentSettings, env: VecEnv) -> BaseAlgorithm:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="You have specified a mini-batch size")
        return make_agent(
            settings.algorithm,
            env,
            settings.all_hyperparameters(),
            seed=derive(settings.seed, "agent") % 2**31,
            device=settings.device,
        )


def _train(
    settings: AgentSettings,
    folder: Path,
    model: BaseAlgorithm,
    longest: int,
    command: str,
    on_episode: OnEpisode | None,
) -> TrainedAgent:
    steps = settings.timesteps or settings.episodes * longest  # type: ignore[operator]
    segment = max(settings.segment or steps // 10, 4 * longest)  # a new segment drops the episode that is going on
    log = EpisodeLog(settings.episodes, on_episode)
    number, saved = 0, checkpoints(folder)
    if saved:
        number = load_checkpoint(saved[-1], model, log)
    segments = Segments(folder, settings.seed, segment, log, number)
    model.set_logger(_logger(folder, model.num_timesteps))
    model.learn(
        max(0, steps - model.num_timesteps),
        callback=[segments, log],
        log_interval=1 if hasattr(model, "rollout_buffer") else 10,
        reset_num_timesteps=not saved,
    )
    model.logger.close()
    write_text(folder / "episodes.jsonl", "".join(json.dumps(line, allow_nan=False) + "\n" for line in log.lines))
    levels = LEVELS if settings.algorithm in DISCRETE else None
    own = _make_one(settings, folder, acts=False)
    deterministic, support = evaluate(TrainedAgent(model, {"around": settings.centre}), own, settings.seed)
    card = {
        "algorithm": settings.algorithm,
        "hyperparameters": settings.all_hyperparameters(),
        "levels": levels,
        "around": settings.centre,
        "env": {"id": settings.env, "kwargs": dict(settings.env_kwargs)},
        "training": {
            "episodes": len(log.lines),
            "timesteps": model.num_timesteps,
            "seed": settings.seed,
            "workers": settings.workers,
            **_seen(own),
        },
        "metrics": {"deterministic": deterministic, "best": log.best},
        "support": support,
        "command": command,
        "versions": versions(),
    }
    save_agent(folder / AGENT, model, card)
    for path in checkpoints(folder):
        shutil.rmtree(path)
    return load_agent(folder / AGENT, settings.device)


def _seen(env: gymnasium.Env[Any, Any]) -> dict[str, Any]:
    """What the observations of a training told: the tolerances, and whether of errors."""
    inner: Any = env.unwrapped
    envs: list[Any] = getattr(inner, "envs", [inner])
    drawn = getattr(inner, "tolerances", None)
    tolerances = sorted(set(drawn or [e.rules.tolerance for e in envs]))
    return {"tolerances": tolerances, "errors": envs[0].rules.sees_errors}


def evaluate(
    agent: TrainedAgent, env: gymnasium.Env[Any, Any], seed: int
) -> tuple[list[dict[str, Any]], dict[str, list[float]]]:
    """The agent's deterministic schedule beside the uniform one, for every network and goal it was trained on.

    Returns:
        A line for each, and `low` and `high`: the bounds (features,) of what the agent saw in these episodes.
    """
    inner = env.unwrapped
    goals: list[dict[str, Any]] = [{}]
    if isinstance(inner, MixedPruningEnv):
        goals = [{"problem": number} for number in range(len(inner.envs))]
        if inner.budgets is not None:
            goals = [{**goal, "budget": budget} for goal in goals for budget in inner.budgets]
    results, watched = [], _Watched(agent)
    for goal in goals:
        line: dict[str, Any] = dict(goal)
        for name, controller in (("agent", watched), ("uniform", Uniform())):
            episode = run_episode(env, controller, seed=seed, options=goal or None)
            line[name] = {"reward": episode.total_reward, "score": episode.info["final_score"]}
            line["macs_share"] = episode.info["final_macs_share"]
        results.append(line)
    seen = np.array(watched.seen, dtype=np.float64).round(4)
    return results, {"low": seen.min(axis=0).tolist(), "high": seen.max(axis=0).tolist()}


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


def make_vector_env(settings: AgentSettings, folder: Path) -> VecEnv:
    """The training environments: in this process for one worker, else each in its own."""

    def make() -> gymnasium.Env[Any, Any]:
        return Monitor(_make_one(settings, folder, acts=True))

    if settings.workers == 1:
        return DummyVecEnv([make])
    return SubprocVecEnv([make] * settings.workers, start_method=settings.start_method)


def _make_one(settings: AgentSettings, folder: Path, acts: bool) -> gymnasium.Env[Any, Any]:
    kwargs, cache = dict(settings.env_kwargs), str(folder / "scores.sqlite")
    if settings.env == MIXED:
        kwargs["common"] = {"cache": cache, **(kwargs.get("common") or {})}
    elif settings.env in (LAYERWISE, ITERATIVE):
        kwargs = {"cache": cache, **kwargs}
    env = gymnasium.make(f"rlprune:{settings.env}" if settings.env.startswith("rlprune/") else settings.env, **kwargs)
    if not acts:
        return env
    if settings.centre == "advice":
        env = AroundAdvice(env)
    return DiscreteRates(env, LEVELS) if settings.algorithm in DISCRETE else env


def longest_episode(settings: AgentSettings) -> int:
    """Steps of the longest one-round episode of the environment; ten times that for one that plays rounds."""
    env = gymnasium.make(f"rlprune:{settings.env}", **settings.env_kwargs).unwrapped
    envs: list[Any] = getattr(env, "envs", [env])
    return max(len(e.scope.names) * (1 if e.rules.one_shot else 10) for e in envs)


def _logger(folder: Path, step: int) -> Logger:
    """A logger that goes on with the folder's TensorBoard run after `step`."""
    from torch.utils.tensorboard import SummaryWriter

    output = TensorBoardOutputFormat.__new__(TensorBoardOutputFormat)  # its own writer cannot purge
    output._is_closed = False
    output.writer = SummaryWriter(str(folder), purge_step=step + 1 if step else None)
    return Logger(str(folder), [output])
