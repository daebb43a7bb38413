"""The main job: prune one network to an error tolerance, into a run folder that can be resumed and replayed."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any, NoReturn, Protocol

from rlprune.agents.controllers.base import Rule, shown_to
from rlprune.agents.controllers.sampling import BestOf
from rlprune.agents.runs.finishing import (
    Finisher,
    Tuned,
    better,
    describe,
    finetune,
    latency,
    pack_network,
    unpack_network,
)
from rlprune.agents.runs.repairing import RepairUntil
from rlprune.agents.runs.settings import PruneSettings
from rlprune.artifact import save_pruned
from rlprune.envs import FilterPruningEnv, Rules
from rlprune.errors import UserError
from rlprune.network import Network
from rlprune.problem import PruningProblem
from rlprune.record import RunFolder, versions
from rlprune.recovery import Recovery, make_recovery
from rlprune.report import plots
from rlprune.report.curves import Curves
from rlprune.report.examples import find_examples
from rlprune.report.pictures import PICTURES, draw_examples
from rlprune.tasks import score_drop

__all__ = ["PruneSettings", "Silent", "Watcher", "describe", "latency", "make_env", "prune"]


class Watcher(Protocol):
    """Told how a run is getting on."""

    def round(self, line: dict[str, Any], base_macs: int, rounds_left: float | None) -> None:
        """A round has ended."""

    def work(self, what: str, done: float = 0.0, total: float = 1.0, detail: str = "") -> None:
        """Something inside a round has got this far."""


class Silent:
    """A watcher that shows nothing."""

    def round(self, line: dict[str, Any], base_macs: int, rounds_left: float | None) -> None:
        """Show nothing."""

    def work(self, what: str, done: float = 0.0, total: float = 1.0, detail: str = "") -> None:
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
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError("pruning is one process's work; torchrun is for `rlprune train`: start prune without it")
    if folder.exists():
        previous = folder.read()
        if not resume:
            raise UserError(
                f"{folder.path} holds a run already; add --resume to go on with it, or choose another --out"
            )
        if "problem" not in previous["settings"]:
            raise UserError(f"{folder.path} holds another kind of run, not a pruning; choose another --out")
        if PruneSettings.from_json(previous["settings"]) != settings:
            raise UserError(f"the run in {folder.path} was started with other settings; --resume takes none of its own")
        if previous["status"] == "finished":
            return previous
    folder.clear_remains()
    run = _Run(settings, folder, command, watcher or Silent())
    return run.finish(*run.play())


class _Run:
    """One run in progress: attempts (one, unless a one-shot method leaves the tolerance), rounds, fine-tuning."""

    def __init__(self, settings: PruneSettings, folder: RunFolder, command: str, watcher: Watcher) -> None:
        self.settings, self.folder, self.watcher = settings, folder, watcher
        self.problem = settings.problem.build()
        self.curves = Curves(folder.path)
        self.attempt, self.past = 0, list[dict[str, Any]]()
        self.trained_before = 0  # images, in earlier attempts
        self.budget = settings.target_macs
        self.spent, self.started = 0.0, time.monotonic()
        self.inside: Network | None = None  # the last that kept the tolerance, where the end is what counts
        self.rolled_back = False
        self.tuning: list[Tuned] = []
        self.record: dict[str, Any] = {
            "status": "running",
            "model": settings.problem.model,
            "method": settings.method,
            "seed": settings.seed,
            "tolerance": settings.tolerance,
            "settings": settings.to_json(),
            "data": self.problem.data.to_json(),
            "command": command,
            "versions": versions(),
            "rounds": [],
        }

    @property
    def history(self) -> list[dict[str, Any]]:
        """The record of every round of every attempt."""
        return [*self.past, *self._numbered()]

    def play(self) -> tuple[Network, str]:
        """Prune and fine-tune until a network inside the tolerance is found; returns it and why the run stopped."""
        state = self.folder.load_checkpoint(str(self.problem.device))
        if state is not None:
            self.attempt, self.past, self.budget = state["attempt"], state["past"], state["budget"]
            self.trained_before = state["trained_before"]
            self.spent, self.tuning = state["seconds"], [Tuned(**line) for line in state["tuning"]]
        while True:
            info = self._episode(state)
            network = self._finetuned(info)
            if network is not None:
                break
            if not self.settings.one_shot or self.attempt + 1 == self.settings.attempts:
                self._fail()
            share = float(info["final_macs_share"])
            self.past, self.budget, state = self.history, share**0.5, None
            self.attempt += 1
            self.trained_before = self.problem.ledger.images_trained
        self.record["time"] = {"pruning_s": self.spent + time.monotonic() - self.started}
        return network, "tolerance" if self.rolled_back else str(info["stopped"])

    def _episode(self, state: dict[str, Any] | None) -> dict[str, Any]:
        """Play rounds until the environment ends the episode; returns its last info."""
        self.controller = self.settings.make_controller()
        if hasattr(self.controller, "on_trial"):
            self.controller.on_trial = self._tried
        rules = replace(self.settings, target_macs=self.budget)
        self.env = make_env(self.problem, rules, self.watcher, shown_to(self.controller, self.settings.tolerance))
        if isinstance(self.controller, Rule):
            self.controller.bind(self.env)
        observation, info = self.env.reset(seed=self.settings.seed)
        done, hidden = False, None
        if state is not None:
            observation = self.env.load_state_dict(state["env"])
            if hasattr(self.controller, "load_state_dict"):
                self.controller.load_state_dict(state["controller"])
            self.problem.ledger.load_state_dict(state["ledger"])
            self.inside = unpack_network(state["inside"], self.problem)
            done, info = state["done"], state["info"]
        self._write()
        self.curves.start(len(self.history))
        while not done:
            action, hidden = self.controller.predict(observation, hidden, None, True)
            rounds = len(self.env.history)
            observation, _, terminated, truncated, info = self.env.step(action)
            done = terminated or truncated
            if len(self.env.history) > rounds:
                self._round_ended(done, info)
        return info

    def _round_ended(self, done: bool, info: dict[str, Any]) -> None:
        if self.settings.checked_at_end and self._allowed(self.env.score.value) and self.env.network.plan:
            self.inside = self.env.network
        state = {
            "attempt": self.attempt,
            "past": self.past,
            "budget": self.budget,
            "trained_before": self.trained_before,
            "tuning": [asdict(tuned) for tuned in self.tuning],
            "env": self.env.state_dict(),
            "controller": self.controller.state_dict() if hasattr(self.controller, "state_dict") else {},
            "ledger": self.problem.ledger.state_dict(),
            "inside": pack_network(self.inside),
            "seconds": self.spent + time.monotonic() - self.started,
            "done": done,
            "info": info,
        }
        self.folder.save_checkpoint(state)
        self._write()
        line = self.history[-1]
        self.curves.round(line, self.problem)
        self.watcher.round(line, self.problem.cost.macs(), self.env.rounds_left)

    def _tried(self, done: int, total: int, best: float) -> None:
        self.watcher.work(f"trying {total} schedules", done, total, f"best {best:.4f}")

    def _numbered(self) -> list[dict[str, Any]]:
        """This attempt's rounds, numbered on from those before it."""
        if not self.settings.one_shot:
            return self.env.history
        start = len(self.past)
        return [{**line, "round": start + line["round"], "attempt": self.attempt} for line in self.env.history]

    def _allowed(self, score: float) -> bool:
        return score_drop(self.problem.baseline.value, score) <= self.settings.tolerance

    def _finetuned(self, info: dict[str, Any]) -> Network | None:
        """The network that this attempt hands back, fine-tuned if that helps; None if there is none inside."""
        network, before = self.env.accepted, float(info["final_score"])
        if not network.plan:
            return None
        if isinstance(self.controller, Finisher):
            self.watcher.work("finishing")
            network, before = better(self.problem, (network, before), self.controller.finish(network))
        checkpoint = self.folder.path / f"finetune-{self.attempt}.pt"
        images = self.problem.ledger.images_trained - self.trained_before
        trained = images / len(self.problem.data.train)
        tuned, score, report = finetune(
            self.problem, network, before, self.settings, checkpoint, self.attempt, trained, self.watcher.work
        )
        if report is not None:
            self.tuning.append(report)
        self.rolled_back = not self._allowed(score)
        return self.inside if self.rolled_back else tuned

    def _fail(self) -> NoReturn:
        self.record["status"] = "nothing removed"
        self._write()
        drops = [line["drop"] for line in self.history if any(line["removed"].values())]
        drops += [score_drop(self.problem.baseline.value, tuned.after) for tuned in self.tuning]
        method = self.settings.method
        if drops:
            why = f"the mildest removal tried dropped {min(drops):.4f}"
            remedy = "allow more --repair-epochs or --finetune-epochs"
        else:
            why = f"{method} tried no removal"
            remedy = f"loosen the limits that `rlprune methods {method}` lists"
        raise UserError(f"tolerance {self.settings.tolerance} cannot be met; {why}: raise --tolerance, or {remedy}")

    def _write(self) -> None:
        self.record["rounds"] = self.history
        if isinstance(self.controller, BestOf):
            self.record["samples"] = self.controller.tried
        self.folder.write(self.record)

    def finish(self, network: Network, stopped: str) -> dict[str, Any]:
        """Score the network on the test split, once; save it; complete the record."""
        problem, settings = self.problem, self.settings
        base = problem.base()
        self.watcher.work("scoring on the test split")
        baseline, pruned = (describe(problem, candidate) for candidate in (base, network))
        self.watcher.work("measuring latency")
        names = [group.name for group in problem.groups if not group.locked]
        self.record |= {
            "status": "finished",
            "stopped": stopped,
            "finetune": [asdict(tuned) for tuned in self.tuning],
            "baseline": baseline,
            "pruned": pruned,
            "drop": score_drop(baseline["control_score"], pruned["control_score"]),
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
            {"model": settings.problem.model, "classes": list(problem.data.classes), "plan": network.plan.to_json()},
        )
        title = f"{settings.problem.model}: {baseline['macs'] / pruned['macs']:.2f}× fewer MACs"
        plots.save(plots.widths(self.record["widths"], title), self.folder.path / "widths.png")
        plots.save(plots.rounds(self.history, settings.tolerance, baseline["macs"]), self.folder.path / "rounds.png")
        self.watcher.work("drawing examples")
        examples = find_examples(problem, base.model, network.model)
        if examples is not None:
            self.record["pictures"] = examples.caption
            plots.save(draw_examples(examples), self.folder.path / PICTURES)
            self.curves.picture(self.folder.path / PICTURES, len(self.history))
        self._write()
        self.curves.close(self.record)
        self.folder.drop_checkpoint()
        for checkpoint in self.folder.path.glob("finetune-*.pt"):
            checkpoint.unlink(missing_ok=True)
        return self.record


def make_env(
    problem: PruningProblem,
    settings: PruneSettings,
    watcher: Watcher | None = None,
    shown: Mapping[str, Any] | None = None,
) -> FilterPruningEnv:
    """The environment in which these settings are played; `shown` are the rules of `shown_to`."""
    progress = (watcher or Silent()).work
    recovery: Recovery = make_recovery(
        settings.recovery, settings.training, lambda done: progress("training after the removal", done, 1.0)
    )
    if settings.repair_epochs > 0 and not settings.checked_at_end and not settings.one_shot:
        goal = settings.repair_to * settings.tolerance
        recovery = RepairUntil(recovery, settings.training, goal, settings.repair_epochs, progress)
    rules = Rules(
        criterion=settings.criterion,
        reward="accuracy" if settings.one_shot else "tolerance",
        tolerance=1.0 if settings.checked_at_end else settings.tolerance,
        budget=settings.target_macs,
        max_rate=settings.max_rate,
        rounds=settings.rounds,
        one_shot=settings.one_shot,
        on_violation=settings.on_violation,
        skip=settings.skip,
        seed=settings.seed,
        **(shown or {}),
    )
    env = FilterPruningEnv.from_problem(problem, rules, recovery=recovery)
    env.watch = progress
    return env
