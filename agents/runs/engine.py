"""The one engine: plays a recipe on a problem, round by round, and hands back the best network inside the tolerance.

`rlprune.prune`, every command and every cell of a comparison play through it. It knows nothing of files: a sink, where
one is given, keeps its state and its record.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from rlprune.agents.controllers.base import Rule, State
from rlprune.agents.controllers.law import Aim, Standing
from rlprune.agents.runs.healing import Cycle, Heal, Healed, Lost, images, record_of, teacher_of
from rlprune.agents.runs.playing import (
    cheap_repairs,
    controller_of,
    followed_there,
    law_of,
    make_game,
    shown_to,
    standing,
)
from rlprune.agents.runs.recipe import Recipe
from rlprune.agents.runs.watching import Nowhere, Patience, Silent, Sink, Watcher
from rlprune.drops import score_drop
from rlprune.envs.episode.saving import pack_network, unpack_network
from rlprune.errors import NothingInside
from rlprune.network import Network
from rlprune.problem import PruningProblem
from rlprune.seeding import derive
from rlprune.tasks import Score


@dataclass
class Outcome:
    """What a run came to.

    Attributes:
        network: The smallest network inside the tolerance that was found (published: as the paper's rules say).
        rounds: The record of every round.
        stopped: Why it ended.
        finish: What training at the end came to.
        tried: Of `samples`, every episode.
        epochs: Training that was spent.
        seconds: Time that it took, over all processes that worked on it.
        control: The network's score on control, where it was scored as it is now.
    """

    network: Network
    rounds: list[dict[str, Any]]
    stopped: str
    finish: list[dict[str, Any]] = field(default_factory=list)
    tried: list[dict[str, Any]] = field(default_factory=list)
    epochs: float = 0.0
    seconds: float = 0.0
    control: Score | None = None


def play(
    problem: PruningProblem,
    recipe: Recipe,
    *,
    watcher: Watcher | None = None,
    sink: Sink | None = None,
) -> Outcome:
    """Play a recipe.

    Args:
        problem: What is pruned; its books and measurements are used, so give a `fresh()` one.
        recipe: How. `epochs` must be a number, unless the recipe is published (see `playing.settle`).
        watcher: Told of every round and of the work inside.
        sink: Keeps the state, and knows the one to go on from.

    Raises:
        NothingInside: If no network inside the tolerance is found, saying what was tried and what would help.
        KeyboardInterrupt: If it was interrupted; with a sink, the run can go on. Without one, what was found so far is
            handed back instead, unless that is nothing.
    """
    with Patience(recipe.minutes, watcher or Silent(), kept=sink is not None) as patience:
        return _Play(problem, recipe, watcher or Silent(), sink or Nowhere(), patience).go()


class _Play:
    """One run in progress: attempts (one, unless everything goes in one round), rounds, and a finish."""

    def __init__(
        self, problem: PruningProblem, recipe: Recipe, watcher: Watcher, sink: Sink, patience: Patience
    ) -> None:
        self.problem, self.recipe, self.watcher, self.sink, self.patience = problem, recipe, watcher, sink, patience
        teacher = teacher_of(problem, recipe)
        self.heal = Heal(cheap_repairs(recipe, watcher), watcher, lambda: patience.late, teacher)
        self.attempt, self.past = 0, list[dict[str, Any]]()
        self.budget, self.trained_before = recipe.budget, 0
        self.inside: Network | None = None  # the last inside the tolerance, where the end is what is checked
        self.scored: tuple[Network, Score] | None = None  # what was scored last, at the end
        self.finishes: list[dict[str, Any]] = []
        self.pace: dict[str, Any] = {}  # of training, as the first cycle chose it: the same for all, resumed or not
        self.before, self.started = 0.0, time.monotonic()

    # The run ----------------------------------------------------------------------------------------------------

    def go(self) -> Outcome:
        """Attempts until a network inside the tolerance is found."""
        state = self.sink.load()
        if state is not None:
            self.attempt, self.past, self.budget = state["attempt"], state["past"], state["budget"]
            self.trained_before, self.before = state["trained_before"], state["seconds"]
            self.finishes = list(state["finishes"])
        while True:
            stopped = self._episode(state)
            last = self.env.network if self.recipe.once else self.env.accepted
            network = self._finished(last)
            if network is not None:
                stopped = "tolerance" if network is self.inside and network is not last else stopped
                tried = getattr(self.controller, "tried", [])
                seconds = self.before + time.monotonic() - self.started
                control = self.scored[1] if self.scored is not None and self.scored[0] is network else None
                spent = self._epochs_spent()
                return Outcome(network, self.rounds, stopped, self.finishes, tried, spent, seconds, control)
            if not (self.recipe.published and self.recipe.once) or self.attempt + 1 >= self.recipe.attempts:
                self._fail()
            share = self.problem.macs(self.env.network) / self.problem.cost.macs()
            self.past, self.budget, state = self.rounds, share**0.5, None
            self.attempt += 1
            self.trained_before = self.problem.ledger.images_trained

    @property
    def rounds(self) -> list[dict[str, Any]]:
        """The record of every round of every attempt."""
        start = len(self.past)
        own = [{**line, "round": start + line["round"], "attempt": self.attempt} for line in self.env.history]
        return [*self.past, *(own if self.recipe.once else self.env.history)]

    def _episode(self, state: Mapping[str, Any] | None) -> str:
        """Rounds until the law, the environment, the clock or the user ends them; returns why."""
        problem, recipe = self.problem, self.recipe
        self.controller = controller_of(recipe, self.watcher)
        self.law = law_of(recipe, self.controller)
        self.env = make_game(problem, recipe, self.budget, self.heal, shown_to(self.controller, recipe.tolerance))
        self.env.watch = self.watcher.work
        if isinstance(self.controller, Rule):
            self.controller.bind(self.env)
        self.observation, _ = self.env.reset(seed=problem.seed)
        self.hidden: State = None
        done, stopped = False, "finished"
        if state is not None:
            done, stopped = self._restore(state)
        self.sink.save({} if state is None else state, self.rounds)
        try:
            while not done:
                if self.patience.asked:
                    raise KeyboardInterrupt
                rounds = len(self.env.history)
                done, stopped = self._round()
                self.sink.save(self._state(done, stopped), self.rounds)
                if len(self.env.history) > rounds:
                    unit = {"metric": problem.baseline.metric, "percent": problem.baseline.percent}
                    self.watcher.round({**unit, **self.rounds[-1]}, problem.cost.macs(), self.env.rounds_left)
        except KeyboardInterrupt:
            if self.patience.asked < self.patience.enough or not self.env.accepted.plan:
                raise
            return "interrupted"
        return stopped

    def _round(self) -> tuple[bool, str]:
        """One round; whether it was the last, and why."""
        if self.patience.late:
            return True, "time is up"
        aim = None
        if self.law is not None:
            now = standing(self.env, self.controller, self.recipe, self._epochs_spent(), self.heal.cheap)
            aim = self.law.aim(now)
            if aim is None:
                return True, "budget" if now.target is not None and now.share <= now.target else "nothing more inside"
            if aim.bound_by == "rest":
                return self._rest(aim, now)
            self.env.aim(aim.share)
            self.observation = self.env.observation
        number = len(self.env.history)
        self.heal.last, self.heal.cycle = None, self._cycle(aim, number)
        followed: dict[str, float] = {}
        while True:
            action, self.hidden = self.controller.predict(self.observation, self.hidden, None, True)
            share = followed_there(self.controller, self.observation)
            self.observation, _, terminated, truncated, info = self.env.step(action)
            followed |= {} if share is None else {info["group"]: share}
            if len(self.env.history) > number:
                break
        line = self.env.history[-1]
        line |= {**record_of(self.heal.last), **({"followed": followed} if followed else {})}
        self.pace = self.pace or dict((self.heal.last and self.heal.last.pace) or {})
        line["epochs_left"] = self._epochs_left()
        self.heal.lost = None if line["accepted"] else self.heal.lost
        if self.law is not None and aim is not None:
            line |= {"share": line["macs"] / self.problem.cost.macs(), "slack": now.slack, "bound_by": aim.bound_by}
            line.setdefault("harm", line["drop"])
            seen = self.law.learn(aim, now, line)
            line |= {"healing_predicted": aim.healing, "healing": seen}
        if self.recipe.check == "end" and self.recipe.published and self._inside(self.env.network):
            self.inside = self.env.network
        return terminated or truncated, str(info.get("stopped", ""))

    def _rest(self, aim: Aim, now: Standing) -> tuple[bool, str]:
        """A round that only trains: the accepted network goes on, better or as it was."""
        network, number = self.env.accepted.copy(), len(self.env.history)
        file = self.sink.cycle_file(f"cycle-{self.attempt}-{number}")
        settings = replace(self.recipe.repair, epochs=aim.epochs, **self.pace)
        cycle = Cycle(settings, file=file, left=self._epochs_left())
        report = self._fit(network, cycle, now.drop, "rest", number)
        if report.gained > 0:
            self.env.adopt(network)
        done, stopped = False, ""
        while len(self.env.history) == number and not done:
            self.observation, _, done, _, info = self.env.step(self.env.action_for(0))
            stopped = str(info.get("stopped", ""))
        line = self.env.history[-1]
        line |= {"share": now.share, "slack": now.slack, "bound_by": "rest", "epochs": report.epochs}
        line |= {"harm": now.drop, "epochs_left": self._epochs_left()}
        assert self.law is not None
        self.law.learn(aim, now, line)
        return (done, stopped) if report.gained > 0 else (True, "nothing more inside")

    def _fit(self, network: Network, cycle: Cycle, drop: float, purpose: str, number: int) -> Healed:
        """Train a network in place, and tell of it."""
        seed = derive(self.problem.seed, purpose, number)
        return self.heal.fit(self.problem, network.model, cycle, drop, seed)

    def _cycle(self, aim: Aim | None, number: int) -> Cycle | None:
        """The training after a removal."""
        recipe, file = self.recipe, self.sink.cycle_file(f"cycle-{self.attempt}-{number}")
        if not self.problem.trains:
            return None
        if aim is not None:
            last = aim.epochs >= self._epochs_left() - 1e-9  # nothing else is left to do with them
            settings = replace(recipe.repair, epochs=aim.epochs, **self.pace)
            enough = None if last else aim.enough
            return Cycle(settings, enough, recipe.tolerance, file, self._epochs_left(), aim.bound_by == "setback")
        if recipe.once or recipe.check == "end" or recipe.repair.epochs <= 0:
            return None
        settings = replace(recipe.repair, schedule="restarts", **self.pace)
        return Cycle(settings, recipe.repair_to * recipe.tolerance, None, file, self._epochs_left())

    # The end ----------------------------------------------------------------------------------------------------

    def _finished(self, network: Network) -> Network | None:
        """The network to hand back: with the controller's last touch and the finish, if those keep it inside."""
        if not network.plan:
            return None
        score = self.problem.evaluator.score(network.model, "control")
        if isinstance(self.controller, Rule):
            touched = self.controller.finish(network)
            if touched is not network:
                after = self.problem.evaluator.score(touched.model, "control")
                if after.value >= score.value:
                    network, score = touched, after
        self.scored = network, score
        drop = score_drop(self.problem.baseline.value, score.value)
        epochs = self._finish_epochs()
        if epochs > 0 and self.problem.trains and not self.patience.late:
            network, drop = self._finish(network, drop, epochs)
        if drop <= self.recipe.tolerance:
            return network
        return self.inside

    def _finish(self, network: Network, drop: float, epochs: float) -> tuple[Network, float]:
        done = self._epochs_spent() - self.trained_before / images(self.problem)
        marks = tuple(max(mark - done, 0.0) for mark in self.recipe.finish.milestones)
        marks = marks if self.recipe.epochs else self.recipe.finish.milestones
        settings = replace(self.recipe.finish, epochs=epochs, milestones=marks)
        trained = network.copy()
        cycle = Cycle(settings, file=self.sink.cycle_file(f"finish-{self.attempt}"), left=epochs)
        report = self._fit(trained, cycle, drop, "finish", self.attempt)
        after = report.after
        self.finishes.append(
            {
                "epochs": report.epochs,
                "drop_before": drop,
                "drop": after,
                "kept": report.gained > 0,
                "losses": list(report.losses),
            }
        )
        return (trained, after) if report.gained >= 0 else (network, drop)

    def _finish_epochs(self) -> float:
        if not self.recipe.published:
            return 0.0  # the law has spent what was worth spending
        return self.recipe.finish.epochs if self.recipe.epochs is None else self._epochs_left()

    def _fail(self) -> None:
        drops = [line["drop"] for line in self.rounds if any(line["removed"].values())]
        drops += [line["drop"] for line in self.finishes]
        if drops:
            why, remedy = f"the mildest removal tried dropped {min(drops):.4f}", "allow more --epochs"
        else:
            why = f"{self.recipe.method} tried no removal"
            multiple = max(group.round_to for group in self.problem.groups.prunable)
            why += f" that leaves multiples of {multiple}" if multiple > 1 else ""
            remedy = f"loosen the limits that `rlprune methods {self.recipe.method}` lists"
        raise NothingInside(f"tolerance {self.recipe.tolerance} cannot be met; {why}: raise --tolerance, or {remedy}")

    # Books ------------------------------------------------------------------------------------------------------

    def _inside(self, network: Network) -> bool:
        return bool(network.plan) and self.env.drop <= self.recipe.tolerance

    def _epochs_spent(self) -> float:
        return self.problem.ledger.images_trained / images(self.problem)

    def _epochs_left(self) -> float:
        if self.recipe.epochs is None:
            return 0.0
        return max(0.0, self.recipe.epochs - self._epochs_spent() + self.trained_before / images(self.problem))

    def _state(self, done: bool, stopped: str) -> dict[str, Any]:
        return {
            "attempt": self.attempt,
            "past": self.past,
            "budget": self.budget,
            "trained_before": self.trained_before,
            "finishes": self.finishes,
            "env": self.env.state_dict(),
            "controller": self.controller.state_dict() if isinstance(self.controller, Rule) else {},
            "law": {} if self.law is None else self.law.state_dict(),
            "ledger": self.problem.ledger.state_dict(),
            "inside": None if self.inside is None else pack_network(self.inside),
            "pace": self.pace,
            "lost": None if self.heal.lost is None else self.heal.lost.to_dict(),
            "seconds": self.before + time.monotonic() - self.started,
            "done": done,
            "stopped": stopped,
        }

    def _restore(self, state: Mapping[str, Any]) -> tuple[bool, str]:
        self.observation = self.env.load_state_dict(state["env"])
        if isinstance(self.controller, Rule):
            self.controller.load_state_dict(state["controller"])
        if self.law is not None:
            self.law.load_state_dict(state["law"])
        self.problem.ledger.load_state_dict(state["ledger"])
        self.inside = None if state["inside"] is None else unpack_network(state["inside"], self.problem)
        self.pace = dict(state["pace"])
        self.heal.lost = None if state["lost"] is None else Lost.from_dict(state["lost"])
        return bool(state["done"]), str(state["stopped"])
