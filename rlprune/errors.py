"""Errors a user can act on: one line that names the value, the bound and the remedy."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

MANY = 30  # names that are not listed in one line


class UserError(ValueError):
    """A mistake in what the user gave. The command line prints it as one line and exits with status 2."""


class Notice(UserWarning):
    """What a user should know and need not mend. The command line prints it as one line."""


class NothingInside(UserError):
    """No network inside the tolerance was found, whatever was tried."""


def unknown_name(kind: str, name: str, known: Iterable[str]) -> UserError:
    """The error for a name that is not in a registry, with the closest known one as a suggestion.

    Of many known ones, those that are closest are listed.
    """
    known = sorted(known)
    lower = {entry.lower(): entry for entry in known}
    close = difflib.get_close_matches(name.lower(), lower, n=1)
    hint = f"did you mean {lower[close[0]]!r}? " if close else ""
    if len(known) > MANY:
        nearest = sorted(lower[entry] for entry in difflib.get_close_matches(name.lower(), lower, n=8, cutoff=0.0))
        return UserError(f"unknown {kind} {name!r}; {hint}the closest of {len(known)} known: {', '.join(nearest)}")
    return UserError(f"unknown {kind} {name!r}; {hint}known: {', '.join(known) or '(none)'}")


def check_rate(name: str, value: float) -> float:
    """Return `value` if it is a fraction in [0, 1], else raise a UserError that says so."""
    if not 0.0 <= value <= 1.0:  # also false for NaN
        raise UserError(f"{name} is {value}; it must lie in [0, 1] (a fraction, not a percentage)")
    return value
