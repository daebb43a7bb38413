"""The main job: prune one network to an error tolerance, into a run folder that can be resumed and replayed."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch

from rlprune.agents.controller import Rule, make_controller
from rlprune.artifact import save_pruned
from rlprune.cost import measure_latency
from rlprune.criteria import get_criterion
from rlprune.envs import EnvSettings, FilterPruningEnv
from rlprune.errors import UserError, check_rate
from rlprune.problem import ProblemSpec, PrunedNetwork, PruningProblem
from rlprune.record import RunFolder, versions
from rlprune.recovery import Recovery, RepairUntil, TrainSettings, make_recovery
from rlprune.report import plots
from rlprune.report.curves import Curves
from rlprune.tasks import Score


@dataclass(frozen=True)
class PruneSettings:
    """Everything that decides what a run gives, in plain values.

    Attributes:
        problem: Network and data.
        controller: A name of `rlprune.agents.RULES`.
        controller_options: Its settings, by field name; missing ones keep their defaults.
        criterion: Name of the filter ranking.
        recovery: Names of the repairs after each removal, joined by `+`.
        tolerance: Largest drop of the control score allowed, in [0, 1].
        target_macs: Stop once the MACs are at most this fraction of the unpruned network's; None goes on.
        max_rate: Most of a group that one round may remove.
        rounds: Stop after this many rounds; None goes on until nothing can be removed.
        repair_epochs: Training, in epochs, that a round may spend to come back inside the tolerance.
        lr: Learning rate of that training.
        amp: Mixed precision (bfloat16) in it: twice as fast on GPUs and on recent CPUs.
    """

    problem: ProblemSpec = field(default_factory=ProblemSpec)
    controller: str = "prc"
    controller_options: Mapping[str, Any] = field(default_factory=dict)
    criterion: str = "l1"
    recovery: str = "lsq+bn-delta"
    tolerance: float = 0.01
    target_macs: float | None = None
    max_rate: float = 0.5
    rounds: int | None = None
    repair_epochs: float = 10.0
    lr: float = 0.01
    amp: bool = False

    def __post_init__(self) -> None:
        make_controller(self.controller, self.controller_options)
        get_criterion(self.criterion)
        make_recovery(self.recovery, TrainSettings(lr=self.lr))
        check_rate("--tolerance", self.tolerance)
        check_rate("--max-rate", self.max_rate)
        if self.target_macs is not None:
            check_rate("--target-macs", self.target_macs)
        if self.rounds is not None and self.rounds < 1:
            raise UserError(f"--rounds is {self.rounds}; it must be at least 1")

    @property
    def seed(self) -> int:
        """The problem's seed is the seed of everything random."""
        return self.problem.seed

    @property
    def name(self) -> str:
        """What the run folder is called."""
        words = (Path(self.problem.model.partition(":")[2] or self.problem.model).stem, Path(self.problem.data).stem)
        return "-".join([*words, self.controller, f"t{self.tolerance:g}", f"s{self.seed}"]).replace(":", "-")

    def to_json(self) -> dict[str, Any]:
        """Plain values only."""
        return {**asdict(self), "problem": self.problem.to_json(), "controller_options": dict(self.controller_options)}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> PruneSettings:
        """The settings that `to_json` wrote."""
        problem = dict(content["problem"])
        problem["keep"] = tuple(problem["keep"])
        return cls(**{**content, "problem": ProblemSpec(**problem)})


class Watcher(Protocol):
    """Told how a run is getting on."""

    def round(self, line: dict[str, Any], base_macs: int, rounds_left: float | None) -> None:
        """A round has ended."""

    def work(self, what: str, done: float = 0.0, total: float = 1.0) -> None:
        """Something inside a round has got this far."""


class Silent:
    """A watcher that shows nothing."""

    def round(self, line: dict[str, Any], base_macs: int, rounds_left: float | None) -> None:
        """Show nothing."""

    def work(self, what: str, done: float = 0.0, total: float = 1.0) -> None:
        """Show nothing."""


def prune(
    settings: PruneSettings,
    folder: RunFolder,
    *,
    command: str = "",
    resume: bool = False,
    watcher: Watcher | None = None,
) -> dict[str, Any]:
    """Prune a network until its tolerance is reached, and write the run folder.

    Args:
        settings: What to do.
        folder: Where to write. A folder that holds a run already is an error unless `resume` is set.
        command: The command line, for the record.
        resume: Go on with the run in `folder` from its last whole round; start it if it had not begun.
        watcher: Told about every round.

    Returns:
        The record, as in `record.json`.

    Raises:
        UserError: For anything the user can mend, such as a tolerance that no removal meets.
    """
    if folder.exists():
        previous = folder.read()
        if not resume:
            raise UserError(
                f"{folder.path} holds a run already; add --resume to go on with it, or choose another --out"
            )
        if PruneSettings.from_json(previous["settings"]) != settings:
            raise UserError(f"the run in {folder.path} was started with other settings; --resume takes none of its own")
        if previous["status"] == "finished":
            return previous
    folder.clear_remains()
    run = _Run(settings, folder, command, watcher or Silent())
    return run.finish(run.play())


class _Run:
    """One run in progress."""

    def __init__(self, settings: PruneSettings, folder: RunFolder, command: str, watcher: Watcher) -> None:
        self.settings, self.folder, self.watcher = settings, folder, watcher
        self.problem = settings.problem.build()
        self.env = make_env(self.problem, settings, watcher)
        self.controller = make_controller(settings.controller, settings.controller_options)
        if isinstance(self.controller, Rule):
            self.controller.bind(self.env)
        self.curves = Curves(folder.path)
        self.record: dict[str, Any] = {
            "status": "running",
            "model": settings.problem.model,
            "seed": settings.seed,
            "tolerance": settings.tolerance,
            "settings": settings.to_json(),
            "data": self.problem.data.to_json(),
            "command": command,
            "versions": versions(),
            "rounds": [],
        }

    def play(self) -> dict[str, Any]:
        """Play rounds until the environment ends the episode; returns its last info."""
        observation, info = self.env.reset(seed=self.settings.seed)
        state, spent, done = self.folder.load_checkpoint(str(self.problem.device)), 0.0, False
        if state is not None:
            observation = self.env.load_state_dict(state["env"])
            if hasattr(self.controller, "load_state_dict"):
                self.controller.load_state_dict(state["controller"])
            self.problem.ledger.load_state_dict(state["ledger"])
            spent, done, info = state["seconds"], state["done"], state["info"]
        started, hidden = time.monotonic(), None
        self._write()
        self.curves.start(len(self.env.history))
        while not done:
            action, hidden = self.controller.predict(observation, hidden, None, True)
            rounds = len(self.env.history)
            observation, _, terminated, truncated, info = self.env.step(action)
            done = terminated or truncated
            if len(self.env.history) > rounds:
                self._round_ended(done, info, spent + time.monotonic() - started)
        self.record["time"] = {"pruning_s": spent + time.monotonic() - started}
        return info

    def _round_ended(self, done: bool, info: dict[str, Any], seconds: float) -> None:
        state = {
            "env": self.env.state_dict(),
            "controller": self.controller.state_dict() if hasattr(self.controller, "state_dict") else {},
            "ledger": self.problem.ledger.state_dict(),
            "seconds": seconds,
            "done": done,
            "info": info,
        }
        self.folder.save_checkpoint(state)
        self._write()
        line = self.env.history[-1]
        self.curves.round(line, self.problem)
        self.watcher.round(line, self.problem.cost.macs(), self.env.rounds_left)

    def _write(self) -> None:
        self.record["rounds"] = self.env.history
        self.folder.write(self.record)

    def finish(self, info: dict[str, Any]) -> dict[str, Any]:
        """Score the network on the test split, once; save it; complete the record."""
        network, problem = self.env.accepted, self.problem
        if not network.plan:
            self.record["status"] = "nothing removed"
            self._write()
            best = min((line["drop"] for line in self.env.history if any(line["removed"].values())), default=None)
            tried = "" if best is None else f"; the mildest removal tried dropped {best:.4f}"
            raise UserError(
                f"tolerance {self.settings.tolerance} cannot be met{tried}: "
                "raise --tolerance, or allow more --repair-epochs"
            )
        base = problem.base()
        self.watcher.work("scoring on the test split")
        baseline, pruned = (describe(problem, candidate) for candidate in (base, network))
        self.watcher.work("measuring latency")
        names = [group.name for group in problem.groups if not group.locked]
        self.record |= {
            "status": "finished",
            "stopped": info["stopped"],
            "baseline": baseline,
            "pruned": pruned,
            "drop": baseline["control_score"] - pruned["control_score"],
            "plan": network.plan.to_json(),
            "widths": [
                {"name": name, "before": problem.groups[name].size, "after": network.groups[name].size}
                for name in names
            ],
            "cost": problem.ledger.state_dict(),
            "latency": latency(problem, base, network),
        }
        self.record["sha256"] = save_pruned(
            self.folder.model_file,
            problem.model,
            network.model,
            {
                "model": self.settings.problem.model,
                "classes": list(problem.data.classes),
                "plan": network.plan.to_json(),
            },
        )
        title = f"{self.settings.problem.model}: {baseline['macs'] / pruned['macs']:.2f}× fewer MACs"
        plots.save(plots.widths(self.record["widths"], title), self.folder.path / "widths.png")
        plots.save(
            plots.rounds(self.env.history, self.settings.tolerance, baseline["macs"]), self.folder.path / "rounds.png"
        )
        self._write()
        self.curves.close(self.record)
        self.folder.drop_checkpoint()
        return self.record


def make_env(problem: PruningProblem, settings: PruneSettings, watcher: Watcher | None = None) -> FilterPruningEnv:
    """The environment in which these settings are played."""
    recovery: Recovery = make_recovery(settings.recovery, TrainSettings())
    if settings.repair_epochs > 0:
        progress = (watcher or Silent()).work
        recovery = RepairUntil(
            recovery,
            TrainSettings(lr=settings.lr, amp=settings.amp),
            settings.tolerance,
            settings.repair_epochs,
            progress,
        )
    rules = EnvSettings(
        criterion=settings.criterion,
        tolerance=settings.tolerance,
        budget=settings.target_macs,
        max_rate=settings.max_rate,
        rounds=settings.rounds,
        seed=settings.seed,
    )
    env = FilterPruningEnv.from_problem(problem, rules, recovery=recovery)
    env.watch = (watcher or Silent()).work
    return env


def describe(problem: PruningProblem, network: PrunedNetwork) -> dict[str, Any]:
    """Scores with 95 % intervals on control and test, and cost, in plain values."""
    found: dict[str, Any] = {}
    for role in ("control", "test"):
        score: Score = problem.evaluator.score(network.model, role)
        found |= {
            "metric": score.metric,
            f"{role}_score": score.value,
            f"{role}_interval": list(score.interval()),
            f"{role}_size": score.n,
        }
    return {**found, "macs": problem.macs(network), "parameters": problem.parameters(network)}


def latency(problem: PruningProblem, base: PrunedNetwork, network: PrunedNetwork) -> dict[str, Any]:
    """Median and interquartile range of one forward pass on one image, before and after, in seconds."""
    measured = {
        key: measure_latency(candidate.model, *problem.example_inputs)
        for key, candidate in (("baseline", base), ("pruned", network))
    }
    return {
        "batch": 1,
        "threads": torch.get_num_threads(),
        **{key: {"median_s": value.median_s, "iqr_s": value.iqr_s} for key, value in measured.items()},
    }
