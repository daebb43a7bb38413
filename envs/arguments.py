"""An environment's arguments: what is pruned, by `ProblemSpec` or as a live problem, and `Rules`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from functools import lru_cache
from typing import Any

from rlprune.envs.rules import Rules
from rlprune.errors import UserError, unknown_name
from rlprune.problem import PruningProblem
from rlprune.spec import ProblemSpec

NAMES = ("model", "data", "weights", "task", "root", "device", "control_from")  # of `ProblemSpec`, that are text
RULES = {field.name for field in fields(Rules)}
SPEC = {field.name for field in fields(ProblemSpec)}


PROBLEMS = 64  # that a process keeps: a population is built once, not for every environment of a training


@lru_cache(maxsize=PROBLEMS)
def shared_problem(spec: ProblemSpec) -> PruningProblem:
    """The problem of `spec`; environments of one process share it, since nothing ever changes it."""
    return spec.build()


def read_arguments(problem: PruningProblem | None, given: Mapping[str, Any]) -> tuple[PruningProblem, Rules]:
    """The problem and the rules that fields of `ProblemSpec` and `Rules` stand for.

    Args:
        problem: One at hand; then `given` are rules alone.
        given: Fields by name; `seed` is of both.

    Raises:
        UserError: For an unknown name, or a value that cannot be; mistakes are told before anything is loaded.
    """
    for name in given:
        if name not in RULES | SPEC:
            raise unknown_name("argument of the environment", name, RULES | SPEC | {"problem", "recovery", "cache"})
        if problem is not None and name not in RULES:
            raise UserError(f"{name} and problem are both given; the problem at hand says what {name} is: leave it out")
        if name in NAMES and not isinstance(given[name], str if name in ("model", "data") else str | None):
            raise UserError(
                f"{name} is a {type(given[name]).__name__}; environments take names and numbers, so that they can be "
                "written down: give a name, or make a rlprune.PruningProblem of what is at hand and give it as problem="
            )
    if not isinstance(problem, PruningProblem | None):
        raise UserError(f"problem is a {type(problem).__name__}; give a rlprune.PruningProblem")
    rules = Rules(**{name: value for name, value in given.items() if name in RULES}).check()
    if problem is None:
        spec = {name: value for name, value in given.items() if name in SPEC}
        problem = shared_problem(ProblemSpec(**{**spec, "keep": tuple(spec.get("keep", ()))}))
    return problem, rules
