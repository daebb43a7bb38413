"""The rules by name; a rule's module is imported when its name is used."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from importlib import import_module
from typing import Any

from rlprune.agents.controllers.base import Rule
from rlprune.errors import UserError, check_known, unknown_name
from rlprune.typed import check_table, checked

RULES: dict[str, str] = {
    "uniform": "fixed:Uniform",
    "table": "fixed:PerLayerTable",
    "polynomial": "fixed:Polynomial",
    "error": "error:LeastError",
    "response": "error:LeastResponse",
    "sensitivity": "sensitivity:SensitivityRule",
    "random": "search:RandomSearch",
    "cem": "search:CrossEntropySearch",
    "prc": "prc:PRC",
    "pfec": "pfec:Pfec",
    "fpsl": "fpsl:GlobalThreshold",
    "msvfp": "msvfp:LeastLoss",
    "importance-weights": "importance:GateThreshold",
    "slimming": "slimming:Slimming",
}
"""Name -> module and class in this package. Every class is a dataclass whose fields are its options."""


def list_rules() -> list[str]:
    """Names of all rules."""
    return sorted(RULES)


def rule_class(name: str) -> type[Rule]:
    """The class of a rule; raises UserError for an unknown name."""
    if name not in RULES:
        raise unknown_name("controller", name, [*RULES, "agent:FILE"])
    module, _, attribute = RULES[name].partition(":")
    found: type[Rule] = getattr(import_module(f"rlprune.agents.controllers.{module}"), attribute)
    return found


def make_rule(name: str, options: Mapping[str, Any] | None = None) -> Rule:
    """The rule called `name`, with the settings in `options` by field name.

    Raises:
        UserError: For an unknown rule or option, or a value that it cannot have.
    """
    rule, options = rule_class(name), checked(Mapping[str, Any], options or {}, f"options of {name!r}")
    known = {field.name for field in fields(rule)}  # type: ignore[arg-type]
    for key in options or {}:
        check_known(f"option of {name!r}", key, known)
    check_table(rule, options or {}, f"options of {name!r}")
    try:
        return rule(**(options or {}))
    except TypeError as error:
        raise UserError(f"controller {name!r} cannot be made with {dict(options or {})}: {error}") from None
