"""What a channel group can be tied to, by name; rules of an environment name them too, before torch is loaded."""

from __future__ import annotations

from collections.abc import Iterable

from rlprune.errors import UserError, check_known

KINDS = ("depthwise", "grouped", "residual", "concatenated", "transposed", "linear")


def check_kinds(what: str, names: Iterable[str]) -> tuple[str, ...]:
    """The names as a tuple; raises UserError if one is no kind of group. `what` is the option that they are of.

    >>> check_kinds("skip", ["residual"])
    ('residual',)
    """
    if isinstance(names, str):
        raise UserError(f"{what} is {names!r}; give a list of kinds, as in [{names!r}]")
    names = tuple(names)
    for name in names:
        check_known(f"kind of group in {what}", str(name), KINDS)
    return names
