"""Train a controller agent with Stable-Baselines3, into a folder from which it can go on."""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import shutil
import sys
import tempfile
import warnings
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import gymnasium
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv

from rlprune.agents.rl.callbacks import EpisodeLog, OnEpisode, Segments, checkpoints, load_checkpoint, tensorboard
from rlprune.agents.rl.evaluating import BEST, Watch, evaluate
from rlprune.agents.rl.sb3 import TrainedAgent, load_agent, make_agent, save_agent
from rlprune.agents.rl.settings import AgentSettings
from rlprune.artifact import fingerprint
from rlprune.envs import AroundAdvice, DiscreteRates, ScoreCache
from rlprune.envs.registration import ITERATIVE, LAYERWISE, MIXED
from rlprune.errors import UserError, first_line, unknown_name
from rlprune.files import read_json, write_json, write_text
from rlprune.locking import locked
from rlprune.problem import PruningProblem
from rlprune.record import versions
from rlprune.seeding import derive

AGENT, SCORES = "agent.zip", "scores.sqlite"


def train(
    settings: AgentSettings | None = None,
    folder: str | Path | None = None,
    *,
    problems: PruningProblem | Sequence[PruningProblem] = (),
    resume: bool = False,
    command: str = "",
    on_episode: OnEpisode | None = None,
    **changes: Any,
) -> TrainedAgent:
    """Train an agent and write it into a folder.

    The folder gets `agent.zip` (Stable-Baselines3's own) and its card `agent.json`, `episodes.jsonl` with a line for
    every episode, TensorBoard events, and while the training runs a checkpoint. Scores are kept in `scores.sqlite`
    there unless the environment was given another `cache`.

    Args:
        settings: What to do. Without them the defaults, in `rlprune/MixedPruning-v0` where `problems` are given.
        folder: Where to write; None keeps the agent in memory alone. A folder that holds a training already is an error
            unless `resume` is set.
        problems: Live problems to train on; the settings' `env_kwargs` are then the other arguments. One worker has
            them in this process; more are forked, each with a copy. The card names them by a hash alone.
        resume: Go on from the last checkpoint: weights, optimizers, replay buffer, counters, random streams and the
            TensorBoard run go on as if there had been no stop.
        command: For the card.
        on_episode: Told of every episode: how many there were, and its line.
        changes: Fields of `AgentSettings` that replace those of `settings`.

    Raises:
        UserError: For anything the user can mend.

    Example:
        >>> agent = train(AgentSettings("ppo", episodes=100), "runs/my-agent")  # doctest: +SKIP
        >>> agent = train(problems=[problem], episodes=100)  # doctest: +SKIP
    """
    problems = [problems] if isinstance(problems, PruningProblem) else problems
    settings = _changed(settings or AgentSettings(env=MIXED if problems else LAYERWISE), changes)
    if folder is None:
        with tempfile.TemporaryDirectory(prefix="rlprune-agent-") as scratch:
            return train(settings, Path(scratch) / "run", problems=problems, command=command, on_episode=on_episode)
    course, fresh = Course(settings, Path(folder), tuple(problems)), not Path(folder).exists()
    with locked(course.folder, "settings.json"):
        return _go_on(course, fresh, resume, command, on_episode)


def _go_on(course: Course, fresh: bool, resume: bool, command: str, on_episode: OnEpisode | None) -> TrainedAgent:
    """Begin a training, or go on with it from where it is; `fresh` says that there was no folder."""
    settings, folder, started = course.settings, course.folder, course.folder / "settings.json"
    if started.exists():
        if not resume:
            raise UserError(f"{folder} holds a training already; add --resume to go on, or choose another --out")
        if read_json(started) != course.to_json():
            raise UserError(f"the training in {folder} was started with other settings; --resume takes none of its own")
        if (folder / AGENT).exists() and (folder / "agent.json").exists():
            _clear(folder)  # a training that was killed at its end could not
            return load_agent(folder / AGENT, settings.device)
    lengths = episode_lengths(settings, course.problems)  # builds the networks: mistakes are found at once
    with closing(course.vector_env()) as env:
        try:
            model = _untrained(settings, env, lengths[1])
            _check_updates(settings, model, lengths[0])
        except UserError:
            if fresh:
                shutil.rmtree(folder, ignore_errors=True)  # the file of scores is there already
            raise
        write_json(started, course.to_json())
        log, watch = _train(course, model, lengths[1], on_episode)
    save_agent(folder / AGENT, model, _card(course, model, log, watch, lengths[1], command))
    _clear(folder)
    return load_agent(folder / AGENT, settings.device)


def _changed(settings: AgentSettings, changes: dict[str, Any]) -> AgentSettings:
    """The settings with some fields replaced."""
    if not isinstance(settings, AgentSettings):
        raise UserError(f"settings is a {type(settings).__name__}; give rlprune.agents.AgentSettings(...)")
    known = [field.name for field in fields(AgentSettings)]
    for name in changes:
        if name not in known:
            raise unknown_name("setting of a training", name, known)
    return replace(settings, **changes)


@dataclass(frozen=True)
class Course:
    """A training: what to do, where to write, and the live problems to do it on."""

    settings: AgentSettings
    folder: Path
    problems: tuple[PruningProblem, ...] = ()

    def __post_init__(self) -> None:
        settings = self.settings
        if not self.problems:
            return
        if settings.env not in (MIXED, LAYERWISE, ITERATIVE) or (settings.env != MIXED and len(self.problems) > 1):
            raise UserError(
                f"env is {settings.env} and {len(self.problems)} problems are given; {MIXED} takes any number of them, "
                f"{LAYERWISE} and {ITERATIVE} take one"
            )
        if settings.workers > 1 and self.start_method not in multiprocessing.get_all_start_methods():
            raise UserError("only forked workers can have live problems, and there are none here; take workers=1")
        if settings.workers > 1 and self.start_method != "fork":
            raise UserError(f"start_method is {self.start_method}; only forked workers can have live problems")

    @property
    def start_method(self) -> str | None:
        """How worker processes start."""
        return self.settings.start_method or ("fork" if self.problems else None)

    @property
    def env_kwargs(self) -> dict[str, Any]:
        """The environment's arguments in plain values: of a live problem its hash."""
        named = [
            {"problem": type(problem.model).__name__, "weights": fingerprint(problem.model.state_dict())[:16]}
            for problem in self.problems
        ]
        return {**self.settings.env_kwargs, **({"problems": named} if named else {})}

    def to_json(self) -> dict[str, Any]:
        """Plain values only."""
        return {**self.settings.to_json(), "env_kwargs": self.env_kwargs}

    def env(self, *, acts: bool = False, others: Sequence[Any] = ()) -> gymnasium.Env[Any, Any]:
        """One environment, wrapped as the agent acts in it or bare; of other networks, where they are given."""
        settings, kwargs = self.settings, _with_problems(self.settings, self.problems)
        kwargs |= {"problems": list(others)} if others else {}
        cache = {"cache": str(self.folder / SCORES)}
        if settings.env == MIXED:
            kwargs["common"] = {**cache, **(kwargs.get("common") or {})}
        elif settings.env in (LAYERWISE, ITERATIVE):
            kwargs = {**cache, **kwargs}
        env = _made(settings.env, kwargs)
        if not acts:
            return env
        if settings.centre == "advice":
            env = AroundAdvice(env)
        return env if settings.levels is None else DiscreteRates(env, settings.levels)

    def watch(self, model: BaseAlgorithm, every: int) -> Watch | None:
        """What looks at the networks that are watched, from where the training goes on."""
        settings = self.settings
        if not settings.watched:
            return None
        env = self.env(others=settings.watched)
        watch = Watch(env, self.folder, settings.centre, every, settings.patience, settings.seed)
        watch.resume(model.num_timesteps)
        return watch

    @property
    def scored(self) -> int | None:
        """How many networks were scored; None where the scores are kept elsewhere, with others'."""
        cache = self.folder / SCORES
        return len(ScoreCache(cache)) if cache.exists() else None

    def vector_env(self) -> VecEnv:
        """The training environments: in this process for one worker, else each in its own."""

        def make() -> gymnasium.Env[Any, Any]:
            if multiprocessing.parent_process() is not None:
                sys.stdout = sys.stderr  # what a network prints is no result
            return Monitor(self.env(acts=True))

        workers = self.settings.workers
        return DummyVecEnv([make]) if workers == 1 else SubprocVecEnv([make] * workers, start_method=self.start_method)


def _with_problems(settings: AgentSettings, problems: Sequence[PruningProblem]) -> dict[str, Any]:
    """The environment's arguments, live problems included."""
    kwargs = dict(settings.env_kwargs)
    if problems:
        kwargs |= {"problems": list(problems)} if settings.env == MIXED else {"problem": problems[0]}
    return kwargs


def _made(env_id: str, kwargs: dict[str, Any]) -> gymnasium.Env[Any, Any]:
    try:
        return gymnasium.make(f"rlprune:{env_id}" if env_id.startswith("rlprune/") else env_id, **kwargs)
    except gymnasium.error.UnregisteredEnv as error:
        raise UserError(f"env is {env_id!r}: {first_line(error)}") from None


def episode_lengths(settings: AgentSettings, problems: Sequence[PruningProblem] = ()) -> tuple[int, int]:
    """Steps of the shortest and of the longest episode of the environment: a round, and ten where it plays rounds."""
    env = _made(settings.env, _with_problems(settings, problems))
    if not all(hasattr(e, "scope") for e in _inner(env)):
        raise UserError(f"env is {settings.env!r}, which prunes nothing; known: {LAYERWISE}, {ITERATIVE}, {MIXED}")
    steps = [(len(e.scope.names), len(e.scope.names) * (1 if e.rules.one_shot else 10)) for e in _inner(env)]
    env.close()
    return min(least for least, _ in steps), max(most for _, most in steps)


def _check_updates(settings: AgentSettings, model: BaseAlgorithm, shortest: int) -> None:
    """Raise UserError if the training might end before the agent has learned from anything."""
    if isinstance(model, OffPolicyAlgorithm):
        needed, what = model.learning_starts + 1, "a warm-up"
    elif isinstance(model, OnPolicyAlgorithm) and settings.episodes is not None:
        needed, what = model.n_steps * settings.workers + 1, "a rollout"
    else:  # a rollout that has begun is played to its end
        return
    steps = settings.timesteps or math.inf
    if settings.episodes is not None:
        steps = min(steps, settings.episodes * shortest)
    if steps < needed:
        option = "n_steps" if what == "a rollout" else "learning_starts"
        raise UserError(
            f"{steps} steps make no update of the agent: {what} of {needed - 1} steps comes before it; train for at "
            f"least {math.ceil(needed / shortest)} episodes ({needed} steps), or set {option} lower"
        )


def _inner(env: gymnasium.Env[Any, Any]) -> list[Any]:
    """The pruning environments inside."""
    inner: Any = env.unwrapped
    envs: list[Any] = getattr(inner, "envs", [inner])
    return envs


def _untrained(settings: AgentSettings, env: VecEnv, longest: int) -> BaseAlgorithm:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="You have specified a mini-batch size")
        return make_agent(
            settings.algorithm,
            env,
            settings.all_hyperparameters(longest),
            seed=derive(settings.seed, "agent") % 2**31,
            device=settings.device,
        )


def _train(
    course: Course, model: BaseAlgorithm, longest: int, on_episode: OnEpisode | None
) -> tuple[EpisodeLog, Watch | None]:
    settings, folder = course.settings, course.folder
    steps = settings.timesteps or settings.episodes * longest  # type: ignore[operator]
    segment = max(settings.segment or steps // 10, 4 * longest)  # a new segment drops the episode that is going on
    log = EpisodeLog(settings.episodes, on_episode)
    number, saved = 0, checkpoints(folder)
    if saved:
        try:
            number = load_checkpoint(saved[-1], model, log)
        except UserError as error:
            raise UserError(f"{error}; without the folder {saved[-1]} the training starts again") from None
    segments, watch = Segments(folder, settings.seed, segment, log, number), course.watch(model, segment)
    model.set_logger(tensorboard(folder, model.num_timesteps))
    model.learn(
        max(0, steps - model.num_timesteps),
        callback=[segments, log, *([] if watch is None else [watch])],
        log_interval=1 if hasattr(model, "rollout_buffer") else 10,
        reset_num_timesteps=not saved,
    )
    if watch is not None:
        watch.take_best()
    model.logger.close()
    write_text(folder / "episodes.jsonl", "".join(json.dumps(line, allow_nan=False) + "\n" for line in log.lines))
    return log, watch


def _clear(folder: Path) -> None:
    """Remove what only a training that goes on needs."""
    for path in [*checkpoints(folder), *folder.glob(".checkpoint-*.part")]:
        shutil.rmtree(path, ignore_errors=True)
    (folder / BEST).unlink(missing_ok=True)


def _card(
    course: Course, model: BaseAlgorithm, log: EpisodeLog, watch: Watch | None, longest: int, command: str
) -> dict[str, Any]:
    """What the agent was trained on and how, what it was told, and how it does."""
    settings, env = course.settings, course.env()
    agent = TrainedAgent(model, {"around": settings.centre})
    deterministic, support = evaluate(agent, env, settings.seed)
    inner = _inner(env)
    drawn = getattr(env.unwrapped, "tolerances", None)
    env.close()
    metrics: dict[str, Any] = {"deterministic": deterministic, "best": log.best}
    if settings.left_out:
        agent = TrainedAgent(model, {"around": settings.centre, "support": support})
        metrics["left_out"] = evaluate(agent, course.env(others=settings.left_out), settings.seed)[0]
    return {
        "algorithm": settings.algorithm,
        "hyperparameters": settings.all_hyperparameters(longest),
        "levels": settings.levels,
        "around": settings.centre,
        "env": {"id": settings.env, "kwargs": course.env_kwargs},
        "training": {
            "episodes": len(log.lines),
            "timesteps": model.num_timesteps,
            "seed": settings.seed,
            "workers": settings.workers,
            "tolerances": sorted(set(drawn or [e.rules.tolerance for e in inner])),
            "errors": inner[0].rules.sees_errors,
            "advice": inner[0].rules.advice,
            "watched": [dict(problem) for problem in settings.watched],
            "left_out": [dict(problem) for problem in settings.left_out],
            "curve": [] if watch is None else watch.curve,
            "networks_scored": course.scored,
        },
        "metrics": metrics,
        "support": support,
        "time": {"processor_s": round(sum(os.times()[:4]), 1)},  # of this call's processes
        "command": command,
        "versions": versions(),
    }
