"""What decides a training: the algorithm, its preset, the environment; importing this loads no Stable-Baselines3."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rlprune.envs.registration import LAYERWISE, MIXED
from rlprune.errors import UserError, check_count, check_known, check_seed, unknown_name
from rlprune.files import read_yaml
from rlprune.typed import as_table, check_fields

ALGORITHMS = {
    "ppo": ("stable_baselines3", "PPO"),
    "a2c": ("stable_baselines3", "A2C"),
    "sac": ("stable_baselines3", "SAC"),
    "td3": ("stable_baselines3", "TD3"),
    "ddpg": ("stable_baselines3", "DDPG"),
    "dqn": ("stable_baselines3", "DQN"),
    "amc": ("stable_baselines3", "DDPG"),
    "tqc": ("sb3_contrib", "TQC"),
    "trpo": ("sb3_contrib", "TRPO"),
    "crossq": ("sb3_contrib", "CrossQ"),
    "qrdqn": ("sb3_contrib", "QRDQN"),
}
"""Module and class of every algorithm by name; `amc` is DDPG with AMC's settings (He et al. 2018)."""

DISCRETE = frozenset({"dqn", "qrdqn"})
LEVELS = 11
COUNTS = frozenset({"n_steps", "batch_size", "learning_starts"})  # hyperparameters that are reckoned with here
EPISODES, LEAST = 16, 32  # at most so many episodes before the first update, but at least so many steps
CENTRES = ("advice", "uniform")
START_METHODS = ("fork", "forkserver", "spawn")


def check_algorithm(name: str) -> None:
    """Raise UserError if there is no such algorithm, or the package that it is in is not installed."""
    check_known("algorithm", name, ALGORITHMS)
    module = ALGORITHMS[name][0]
    if find_spec(module) is None:
        raise UserError(
            f"algorithm {name!r} is in {module}, which is not installed: pip install {module.replace('_', '-')}"
        )


@dataclass(frozen=True)
class AgentSettings:
    """Everything that decides what a training gives, in plain values.

    Attributes:
        algorithm: A name of `ALGORITHMS`.
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
        around: What action 0 stands for: `advice` (so that an untrained agent plays the rule that the environment's
            `advice` names, `error` if nothing else), `uniform`, or None for `advice` except for `amc`, which had none.
        start_method: How worker processes start: `fork`, `forkserver`, `spawn`, or None for the platform's safest.
        watched: Networks that are not trained on, as the mixed environment's `problems`: the agent is evaluated on them
            at every segment, and the one that does best there, over the rule `error`, is kept.
        left_out: Networks that are neither trained on nor watched; how the agent does there is on its card.
        patience: Evaluations on what is watched without a better one after which the training ends; 0 never does.
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
    watched: tuple[Mapping[str, Any], ...] = ()
    left_out: tuple[Mapping[str, Any], ...] = ()
    patience: int = 0

    def __post_init__(self) -> None:
        check_fields(self)
        check_algorithm(self.algorithm)
        check_seed(self.seed)
        if self.around not in (None, *CENTRES):
            raise unknown_name("around", str(self.around), CENTRES)
        if self.timesteps is None and self.episodes is None:
            raise UserError("neither timesteps nor episodes is given; give one of them")
        for name in ("timesteps", "episodes", "workers", "segment"):
            check_count(name, getattr(self, name))
        if self.start_method not in (None, *START_METHODS):
            raise unknown_name("start_method", self.start_method, START_METHODS)
        if self.patience < 0 or (self.patience and not self.watched):
            raise UserError(f"patience is {self.patience}; it must be at least 0, and 0 where no network is watched")
        if (self.watched or self.left_out) and self.env != MIXED:
            raise UserError(f"env is {self.env}; networks are watched and left out of {MIXED} alone")

    def to_json(self) -> dict[str, Any]:
        """Plain values only."""
        return as_table(self)

    @property
    def centre(self) -> str:
        """What action 0 stands for, of `CENTRES`."""
        return self.around or ("uniform" if self.algorithm == "amc" else "advice")

    @property
    def levels(self) -> int | None:
        """Among how many levels the agent chooses; None if it names a number."""
        return LEVELS if self.algorithm in DISCRETE else None

    def all_hyperparameters(self, longest: int) -> dict[str, Any]:
        """The preset with its changes.

        The rollouts and the warm-up of the package's own presets are for networks of ten groups or more; where an
        episode is shorter, they hold no more than `EPISODES` of the longest one, but at least `LEAST` steps.

        Args:
            longest: Steps of the longest episode.
        """
        found = preset(self.algorithm, self.env, self.preset)
        if self.preset is None and self.algorithm != "amc":  # which keeps to its paper
            most = max(EPISODES * longest, LEAST)
            found |= {name: min(found[name], most) for name in ("n_steps", "learning_starts") if name in found}
        found |= self.hyperparameters
        for name in COUNTS & set(found):
            if type(found[name]) is not int or found[name] < 0:
                raise UserError(f"{name} is {found[name]!r}; it must be a whole number >= 0")
        if "n_steps" in found and "batch_size" in found and "batch_size" not in self.hyperparameters:
            found["batch_size"] = min(found["batch_size"], max(2, found["n_steps"]))
        return found


def preset(name: str, env_id: str, path: str | None = None) -> dict[str, Any]:
    """The hyperparameters of an algorithm for an environment, from a YAML file in rl-zoo's format.

    Args:
        name: The algorithm.
        env_id: The environment; where the file has no entry for it, `default` is taken.
        path: A file of one's own; None takes the one that comes with this package.

    Raises:
        UserError: If there is no such file or entry, or it is not YAML.
    """
    check_algorithm(name)
    file = resources.files("rlprune.agents.rl.presets") / f"{name}.yml" if path is None else Path(path)
    if path is None and not file.is_file():
        raise UserError(f"no preset comes with algorithm {name!r}; give one with --preset FILE.yml")
    content = read_yaml(file, "preset")
    if not isinstance(content, dict):
        raise UserError(f"preset {path or name} holds no entries by environment; see agents/rl/presets/ppo.yml")
    if env_id not in content and "default" not in content:
        raise unknown_name("environment in the preset", env_id, map(str, content))
    entry = content.get(env_id, content.get("default"))
    if not isinstance(entry, dict):
        raise UserError(f"preset {path or name} holds {entry!r} for {env_id}; it must be hyperparameters by name")
    return {str(key): value for key, value in entry.items()}
