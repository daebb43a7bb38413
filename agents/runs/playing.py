"""What the engine plays with: the controller, the law, the environment, and where the run stands."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from rlprune.agents.controllers.base import Controller, Rule
from rlprune.agents.controllers.beside import Beside
from rlprune.agents.controllers.law import Law, Standing
from rlprune.agents.controllers.registry import make_rule
from rlprune.agents.controllers.sampling import BestOf
from rlprune.agents.controllers.search import Search
from rlprune.agents.controllers.seeking import TrustRegion
from rlprune.agents.runs.healing import Heal
from rlprune.agents.runs.recipe import AGENT, Recipe
from rlprune.agents.runs.watching import Watcher
from rlprune.envs.env import FilterPruningEnv
from rlprune.envs.rules import Rules
from rlprune.errors import UserError
from rlprune.problem import PruningProblem
from rlprune.recovery import Recovery, make_recovery
from rlprune.report.units import ANY_DROP

FEW, MANY = 12.0, 120.0  # epochs by default, of a large job and of a small one
STEPS = 300.0  # of an epoch, where only the user's own training knows
SMALL, LARGE = 2e10, 2e12  # multiply–accumulates of an epoch of training that are a small and a large job


def make_controller(name: str, options: Mapping[str, Any] | None = None) -> Controller:
    """The rule called `name`, with the settings in `options` by field name, or the trained agent of `agent:FILE`.

    Agents that come with the package go by name, as in `agent:NAME`.

    Raises:
        UserError: For an unknown rule or option.
    """
    if not str(name).startswith(AGENT):
        return make_rule(name, options)
    from rlprune.agents.rl.sb3 import load_agent  # needs Stable-Baselines3, which rules do not

    if options:
        raise UserError(f"{name} takes no options; it was trained with its own")
    return load_agent(name.removeprefix(AGENT))


def controller_of(recipe: Recipe, watcher: Watcher) -> Controller:
    """The recipe's controller, untouched by any environment."""
    controller = make_controller(recipe.controller, recipe.options)
    if recipe.samples_tried > 1:
        controller = (
            BestOf(controller, recipe.samples_tried) if recipe.published else Beside(controller, recipe.samples_tried)
        )
    if isinstance(controller, Search):
        controller.cheap = cheap_repairs(recipe, watcher)  # a cycle of training for every trial is not in the budget
    if isinstance(controller, Rule):
        controller.press = recipe.press
        controller.on_trial = lambda done, total, best: watcher.work(
            f"trying {total} schedules", done, total, f"best {best:.4f}"
        )
    return controller


def law_of(recipe: Recipe, controller: Controller) -> Law | None:
    """The law that says how far each round goes: the controller's own, or the trust region; none for a paper's text."""
    if recipe.published:
        return None
    return (controller.law() if isinstance(controller, Rule) else None) or TrustRegion()


def settle(recipe: Recipe, problem: PruningProblem) -> Recipe:
    """The recipe with its open ends decided: how many epochs the run may train, by the size of the job.

    Raises:
        UserError: For a tolerance in points of a score that is a fraction.
    """
    score, tolerance = problem.baseline, recipe.tolerance
    if score.percent and 0.0 <= score.value <= 1.0 < tolerance < ANY_DROP:
        raise UserError(
            f"tolerance is {tolerance:g}, and {score.metric} lies in [0, 1]; {tolerance:g} points are "
            f"{tolerance / 100:g}"
        )
    if not problem.trains:
        return replace(recipe, epochs=None if recipe.published else 0.0)
    if recipe.epochs is not None or recipe.published:
        return recipe
    if problem.data.train is None:
        return replace(recipe, epochs=FEW)
    work = 3.0 * problem.cost.macs() * len(problem.data.train)
    place = min(1.0, max(0.0, math.log(work / SMALL) / math.log(LARGE / SMALL)))
    return replace(recipe, epochs=float(round(MANY * (FEW / MANY) ** place)))


def shown_to(controller: Controller, tolerance: float) -> dict[str, Any]:
    """What an environment's observation tells this controller, as arguments of `Rules`.

    The tolerance of the goal, whatever is enforced on the way; but a trained agent that knows one tolerance alone (the
    budget was its goal) sees that one. An agent sees errors, and is advised, as it was in training. Rules look into the
    environment instead, so that errors are not worked out for nothing.
    """
    if isinstance(controller, BestOf | Beside):
        controller = controller.controller
    if isinstance(controller, Rule):
        return {"shown_tolerance": tolerance, "errors": False}
    training = (getattr(controller, "card", None) or {}).get("training", {})
    known = training.get("tolerances", [])
    shown = known[0] if len(known) == 1 else tolerance
    return {"shown_tolerance": shown, "errors": training.get("errors"), "advice": training.get("advice", "error")}


def followed_there(controller: Controller, observation: Any) -> float | None:
    """How far a trained agent is followed where it sees this, from 0 (not at all) to 1; None for rules."""
    if isinstance(controller, Beside):
        if controller.rule_leads:
            return 0.0
        controller = controller.controller
    told = getattr(controller, "followed", None)
    return None if told is None else round(float(told(observation)), 4)


def cheap_repairs(recipe: Recipe, watcher: Watcher) -> Recovery:
    """The repairs that come before any training."""
    return make_recovery(recipe.recovery, recipe.repair, lambda done: watcher.work("training after the removal", done))


def make_game(
    problem: PruningProblem, recipe: Recipe, budget: float | None, heal: Heal, shown: Mapping[str, Any]
) -> FilterPruningEnv:
    """The environment in which a recipe is played."""
    late = recipe.published and recipe.check == "end" and (recipe.once or budget is not None)
    rules = Rules(
        criterion=recipe.criterion,
        reward="accuracy" if recipe.once or not recipe.published else "tolerance",  # the MACs are given, or are not
        tolerance=ANY_DROP if late else recipe.tolerance,
        budget=budget if recipe.published else None,
        max_rate=recipe.max_rate,
        confidence=recipe.confidence,
        rounds=recipe.rounds,
        one_shot=recipe.published and recipe.once,
        on_violation=recipe.on_violation if recipe.published else "back",
        skip=recipe.skip,
        seed=problem.seed,
        **shown,
    )
    return FilterPruningEnv.from_problem(problem, rules, recovery=heal)


def standing(env: FilterPruningEnv, controller: Controller, recipe: Recipe, spent: float, cheap: Recovery) -> Standing:
    """Where a run stands between two rounds."""
    whole, epochs, train = env.problem.cost.macs(), recipe.epochs or 0.0, env.problem.data.train
    drop = env.drop

    def harm(share: float) -> float | None:
        try:
            env.aim(share)
        except UserError:  # more than the groups can give
            return None
        counts = controller.schedule() if isinstance(controller, Rule) else None
        if counts is not None:
            planned: Any = env.feasible(counts)
        elif not isinstance(controller, Rule):
            planned = env.rehearse(controller)
        else:  # finding them would cost too much: the uniform schedule stands in
            planned = env.budget.fill(lambda _, window: window.count(0.0))
        score, _ = env.preview(planned, cheap)
        env.aim(None)
        return env.baseline.value - score.value - drop

    return Standing(
        tolerance=max(0.0, recipe.tolerance - env.margin),
        drop=drop,
        share=env.problem.macs(env.network) / whole,
        least=min(1.0, env.budget.least_cost / whole + 1e-4),
        target=recipe.budget,
        epochs=epochs,
        left=max(0.0, epochs - spent),
        steps=float(train.steps(recipe.repair.images_a_step(len(train)))) if train is not None else STEPS,
        harm=harm,
        noise=env.score.error,
    )
