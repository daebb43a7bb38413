"""`rlprune episode`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from rlprune.agents.commands.agents import FREE, GAME
from rlprune.agents.commands.options import Run, Section, folder_to_resume, parse, value_of
from rlprune.agents.commands.prune import What, changed, recipe_sections, recorded, run_prune, spec_of
from rlprune.agents.rl.assets import agent_file, names
from rlprune.agents.runs.recipe import AGENT, Recipe
from rlprune.agents.runs.recipes import CYCLE
from rlprune.errors import UserError, reading
from rlprune.files import read_json
from rlprune.spec import ProblemSpec
from rlprune.training.settings import TrainSettings
from rlprune.typed import check_table


@dataclass(frozen=True)
class Player:
    """Who plays.

    Attributes:
        agent: Zip of a trained agent with its card beside it, or the name of one that comes with the package; unless a
            controller is given, the first of these.
        env_kwargs: What the environment of a plain Stable-Baselines3 script was made with, in JSON; writes the card.
    """

    agent: str | None = None
    env_kwargs: str | None = None


COMMON_EPISODE = {"model", "data", "weights", "seed", "device", "agent", "env_kwargs", "controller", "budget",
                  "tolerance", "epochs", "samples", "criterion", "recovery", "max_rate", "skip", "out", "resume",
                  "quiet", "json"}  # fmt: skip


def episode(argv: Sequence[str], about: str, examples: str) -> int:
    """Run a controller on a network, and write the run folder that `prune` writes.

    One round that meets a budget, without training, by the rules that the agent was trained by; where a tolerance or
    epochs are given, a run like any other with that controller, unless the best of some samples is asked for.
    """
    folder_to_resume(argv)
    recipe, spec = recorded(argv) or (_recipe(argv), ProblemSpec())
    sections = [
        Section(Player),
        Section(ProblemSpec, default=spec),
        *recipe_sections(recipe, argv),
        Section(What, skip=("method", "recipe", "published")),
        Section(Run),
    ]
    given = parse("episode", sections, argv, common=COMMON_EPISODE, about=about, examples=examples)
    if given["agent"] is not None:
        given["controller"] = f"{AGENT}{given['agent']}"
    return run_prune(changed(recipe, given), spec_of(given), given)


def _recipe(argv: Sequence[str]) -> Recipe:
    """The recipe that the defaults come from."""
    agent, controller = value_of(argv, "--agent"), value_of(argv, "--controller")
    if agent is not None and controller is not None:
        raise UserError("--agent and --controller are both given; choose one of them")
    if agent is None and controller is None:
        if not names():
            raise UserError(
                "no controller is given; name a trained agent with --agent FILE, or a rule with --controller"
            )
        agent = names()[0]
    controller = controller or f"{AGENT}{agent}"
    arguments = value_of(argv, "--env-kwargs")
    if arguments is not None:
        if not controller.startswith(AGENT):
            raise UserError(f"--env-kwargs is of an agent's training, and {controller} is a rule: leave it out")
        from rlprune.agents.rl.cards import write_card_of

        write_card_of(agent_file(controller.removeprefix(AGENT)), arguments)
    rules = _card_rules(controller.removeprefix(AGENT)) if controller.startswith(AGENT) else {}
    recipe = Recipe(controller=controller, method=controller.partition(":")[0], repair=CYCLE, **{**GAME, **rules})
    goes_on = any(value_of(argv, flag) is not None for flag in ("--tolerance", "--epochs"))
    if goes_on and (controller.startswith(AGENT) or value_of(argv, "--samples") is None):  # else whole episodes
        return replace(recipe, tolerance=FREE, epochs=0.0, finish=CYCLE)
    once: dict[str, Any] = {"published": True, "once": True, "check": "end", "finish": TrainSettings(epochs=0.0)}
    return replace(recipe, tolerance=FREE, budget=0.5, **once)


def _card_rules(file: str) -> dict[str, Any]:
    """The rules by which an agent was trained, as far as its card tells."""
    path = agent_file(file).with_suffix(".json")
    if not path.exists():
        return {}  # loading the agent says what is missing
    with reading(path, "the card of an agent"):
        card = read_json(path)
        kwargs = (card.get("env") or {}).get("kwargs") or {} if isinstance(card, dict) else {}
        kwargs = {**kwargs, **(kwargs.get("common") or {})}
        rules = {name: tuple(kwargs[name]) if name == "skip" else kwargs[name] for name in GAME if name in kwargs}
        check_table(Recipe, rules, "the rules")
    return rules
