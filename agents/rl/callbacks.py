"""What watches a training: a line for every episode, TensorBoard, and checkpoints from which it goes on bit-equal."""

from __future__ import annotations

import io
import shutil
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger, TensorBoardOutputFormat
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm

from rlprune.agents.rl.noise import DecayingNoise
from rlprune.agents.rl.sb3 import load_weights
from rlprune.errors import UserError
from rlprune.files import check_archive, read_json, write_archive, write_json
from rlprune.seeding import derive

OnEpisode = Callable[[int, dict[str, Any]], None]
BUFFER_FIELDS = ("observations", "next_observations", "actions", "rewards", "dones", "timeouts")


class EpisodeLog(BaseCallback):
    """Keeps a line for every finished episode, writes `prune/*` and a rate per group to TensorBoard, and counts.

    Args:
        limit: Stop after this many episodes; None leaves it to the time steps.
        on_episode: Told of every episode: how many there were, and its line.
    """

    def __init__(self, limit: int | None = None, on_episode: OnEpisode | None = None) -> None:
        super().__init__()
        self.limit, self.on_episode = limit, on_episode
        self.lines: list[dict[str, Any]] = []
        self._rates: dict[int, dict[str, float]] = {}

    @property
    def best(self) -> dict[str, Any] | None:
        """The line of the episode with the greatest reward, the first of them."""
        return max(self.lines, key=lambda line: line["reward"], default=None)

    def _on_step(self) -> bool:
        for worker, (info, done) in enumerate(zip(self.locals["infos"], self.locals["dones"], strict=True)):
            rates = self._rates.setdefault(worker, {})
            rates[info["group"]] = info["rate"]
            if done:
                self._finished(info, self._rates.pop(worker))
        return self.limit is None or len(self.lines) < self.limit

    def _finished(self, info: dict[str, Any], rates: dict[str, float]) -> None:
        keys = ("problem", "budget", "tolerance", "final_score", "final_drop", "final_macs_share", "is_success", "plan")
        line = {"episode": len(self.lines) + 1, "timesteps": self.num_timesteps, "reward": float(info["episode"]["r"])}
        line |= {key: info[key] for key in keys if key in info}
        self.lines.append(line)
        for name in ("final_score", "final_drop", "final_macs_share"):
            self.logger.record_mean(f"prune/{name.removeprefix('final_')}", line[name])
        self.logger.record_mean("prune/success", float(line["is_success"]))
        best = self.best
        assert best is not None
        self.logger.record("prune/best_reward", best["reward"])
        self.logger.record("prune/episodes", len(self.lines))
        for group, rate in rates.items():
            self.logger.record_mean(f"rate/{group}", rate)
        if self.on_episode is not None:
            self.on_episode(len(self.lines), line)


class Segments(BaseCallback):
    """Cuts a training into segments, each with random streams of its own, and saves where each of them begins.

    At a segment's start the environments are reset and every stream is seeded from the training's seed and the
    segment's number. So nothing that cannot be saved has to be, and a training that was killed ends as if it had not.

    Args:
        folder: Of the training; checkpoints are kept in `checkpoint/`.
        seed: Of the training.
        every: Time steps of a segment; it is cut at the next rollout.
        log: The episodes, which are saved with the checkpoint.
        number: The segment to begin with.
    """

    def __init__(self, folder: Path, seed: int, every: int, log: EpisodeLog, number: int = 0) -> None:
        super().__init__()
        self.folder, self.seed, self.every, self.log, self.number = folder, seed, every, log, number
        self._next = -1

    def _on_rollout_start(self) -> None:
        if self._next < 0:  # a training that begins, or goes on from a checkpoint
            self._begin()
        elif self.num_timesteps >= self._next:
            self.number += 1
            save_checkpoint(self.folder, self.model, self.number, self.log.lines)
            self._begin()

    def _begin(self) -> None:
        self._next = self.num_timesteps + self.every
        seed = derive(self.seed, "segment", self.number) % 2**31
        self.model.set_random_seed(seed)  # also seeds the environments' next reset
        env = self.model.get_env()
        assert env is not None
        self.model._last_obs = env.reset()  # type: ignore[assignment]
        self.model._last_episode_starts = np.ones(env.num_envs, dtype=bool)
        self.log._rates.clear()

    def _on_step(self) -> bool:
        return True


def save_checkpoint(folder: Path, model: BaseAlgorithm, number: int, lines: list[dict[str, Any]]) -> None:
    """Write everything that a training goes on from; the folder appears whole, the one before goes then."""
    part, final = folder / f".checkpoint-{number}.part", folder / f"checkpoint-{number:06d}"
    shutil.rmtree(part, ignore_errors=True)
    buffer = io.BytesIO()
    model.save(buffer)
    write_archive(part / "agent.zip", buffer)
    state: dict[str, Any] = {
        "number": number,
        "num_timesteps": model.num_timesteps,
        "n_updates": getattr(model, "_n_updates", 0),
        "episode_num": model._episode_num,
        "ep_info": [{key: float(value) for key, value in entry.items()} for entry in model.ep_info_buffer or []],
        "ep_success": [float(value) for value in model.ep_success_buffer or []],
        "exploration_rate": getattr(model, "exploration_rate", None),
        "n_calls": getattr(model, "_n_calls", None),
        "episodes": lines,
    }
    if isinstance(model, OffPolicyAlgorithm):
        replay = model.replay_buffer
        assert isinstance(replay, ReplayBuffer)
        state |= {"pos": replay.pos, "full": replay.full}
        if isinstance(model.action_noise, DecayingNoise):
            state["noise_episode"] = model.action_noise.episode
        arrays = io.BytesIO()
        used = replay.buffer_size if replay.full else replay.pos
        np.savez(arrays, **{name: getattr(replay, name)[:used] for name in BUFFER_FIELDS})
        write_archive(part / "replay.npz", arrays)
    write_json(part / "state.json", state)
    shutil.rmtree(final, ignore_errors=True)
    part.rename(final)
    for older in checkpoints(folder)[:-1]:
        shutil.rmtree(older, ignore_errors=True)


def checkpoints(folder: Path) -> list[Path]:
    """The whole checkpoints in a folder, oldest first."""
    return sorted(path for path in folder.glob("checkpoint-*") if path.is_dir())


def load_checkpoint(path: Path, model: BaseAlgorithm, log: EpisodeLog) -> int:
    """Put a checkpoint into a fresh model and log; returns the number of the segment that begins there.

    Raises:
        UserError: If any of its files is missing or damaged, or it is of another training.
    """
    check_archive(path / "agent.zip", sealed=True)
    load_weights(model, path / "agent.zip")
    state = read_json(path / "state.json")
    model.num_timesteps = state["num_timesteps"]
    model._episode_num = state["episode_num"]
    for name in ("_n_updates", "exploration_rate", "_n_calls"):
        value = state[name.lstrip("_")]
        if value is not None and hasattr(model, name):
            setattr(model, name, value)
    model.ep_info_buffer = deque(state["ep_info"], maxlen=model._stats_window_size)
    model.ep_success_buffer = deque(state["ep_success"], maxlen=model._stats_window_size)
    if isinstance(model, OffPolicyAlgorithm):
        replay = model.replay_buffer
        assert isinstance(replay, ReplayBuffer)
        check_archive(path / "replay.npz", sealed=True)
        with np.load(path / "replay.npz", allow_pickle=False) as arrays:
            for name in BUFFER_FIELDS:
                held = getattr(replay, name)
                if held.shape[1:] != arrays[name].shape[1:] or len(arrays[name]) > len(held):
                    raise UserError(f"{path} is of another training: its {name} have shape {arrays[name].shape}")
                held[: len(arrays[name])] = arrays[name]
        replay.pos, replay.full = state["pos"], state["full"]
        if isinstance(model.action_noise, DecayingNoise):
            model.action_noise.episode = state["noise_episode"] - 1  # learn() begins with a reset, which counts one
    log.lines = list(state["episodes"])
    return int(state["number"])


def tensorboard(folder: Path, step: int) -> Logger:
    """A logger that goes on with the folder's TensorBoard run after `step`."""
    from torch.utils.tensorboard import SummaryWriter

    output = TensorBoardOutputFormat.__new__(TensorBoardOutputFormat)  # its own writer cannot purge
    output._is_closed = False
    output.writer = SummaryWriter(str(folder), purge_step=step + 1 if step else None)
    return Logger(str(folder), [output])
