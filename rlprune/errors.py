"""Errors a user can act on: one line that names the value, the bound and the remedy."""

from __future__ import annotations

import contextlib
import difflib
import math
from collections.abc import Collection, Iterable, Iterator
from numbers import Integral
from pathlib import Path

MANY = 30  # names that are not listed in one line


class UserError(ValueError):
    """A mistake in what the user gave. The command line prints it as one line and exits with status 2."""


class Notice(UserWarning):
    """What a user should know and need not mend. The command line prints it as one line."""


class HelpShown(SystemExit):
    """The command line has said what was asked for, and there is nothing to do."""


class NothingInside(UserError):
    """No network inside the tolerance was found, whatever was tried."""


def unknown_name(kind: str, name: str, known: Iterable[str]) -> UserError:
    """The error for a name that is not in a registry, with the closest known one as a suggestion.

    Of many known ones, those that are closest are listed.
    """
    known, name = sorted(known), str(name)  # whatever was given for one
    lower = {entry.lower(): entry for entry in known}
    close = difflib.get_close_matches(name.lower(), lower, n=1)
    hint = f"did you mean {lower[close[0]]!r}? " if close else ""
    if len(known) > MANY:
        nearest = sorted(lower[entry] for entry in difflib.get_close_matches(name.lower(), lower, n=8, cutoff=0.0))
        return UserError(f"unknown {kind} {name!r}; {hint}the closest of {len(known)} known: {', '.join(nearest)}")
    return UserError(f"unknown {kind} {name!r}; {hint}known: {', '.join(known) or '(none)'}")


def check_known(kind: str, name: str, known: Collection[str]) -> None:
    """Raise UserError with the closest known one if a name is not one of these."""
    if name not in known:
        raise unknown_name(kind, name, known)


def check_rate(name: str, value: float) -> float:
    """Return `value` if it is a fraction in [0, 1], else raise a UserError that says so."""
    if not 0.0 <= value <= 1.0:  # also false for NaN
        raise UserError(f"{name} is {value}; it must lie in [0, 1] (a fraction, not a percentage)")
    return value


def check_number(name: str, value: float, *, above_zero: bool = False) -> None:
    """Raise UserError unless `value` is finite and at least 0, or above it."""
    if not 0.0 <= value < math.inf or (above_zero and value == 0):  # also for NaN
        raise UserError(f"{name} is {value}; it must be a finite number {'>' if above_zero else '>='} 0")


def check_count(name: str, value: float | None) -> None:
    """Raise UserError unless `value` is at least 1, or None where that can be."""
    if value is not None and value < 1:
        raise UserError(f"{name} is {value}; it must be at least 1")


def check_is_file(name: str, path: Path | None) -> None:
    """Raise UserError if the file that is to be written is a folder."""
    if path is not None and path.is_dir():
        raise UserError(f"{name} is {path}, a folder; give a file in it")


def check_seed(value: object) -> int:
    """A seed that every library takes, as a plain number; raises UserError for anything else."""
    if not isinstance(value, Integral) or not 0 <= int(value) < 2**63:
        raise UserError(f"seed is {value}; it must be a whole number from 0 on")
    return int(value)


def printable(text: str) -> str:
    """A text as one line that no terminal takes for a command, whatever the user's values in it hold."""
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)


def first_line(error: object, most: int = 160) -> str:
    """The beginning of what an error says, up to `most` letters of its first line; its kind if it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:most]


@contextlib.contextmanager
def guarding(trouble: str, remedy: str, most: int = 160) -> Iterator[None]:
    """Around what runs a user's own code: whatever it raises is one UserError, with up to `most` letters of it."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{trouble} ({type(error).__name__}: {first_line(error, most)}); {remedy}") from error


def calling(what: str) -> contextlib.AbstractContextManager[None]:
    """Around a call of a user's own code: whatever it raises is one UserError that says what was called."""
    return guarding(f"{what} failed", "mend it")


@contextlib.contextmanager
def needing(what: str, extra: str) -> Iterator[None]:
    """Around the import of a package that comes with an extra: one line says what needs it, and how to get it."""
    try:
        yield
    except ImportError:
        raise UserError(f"{what}: pip install 'rlprune[{extra}]'") from None


@contextlib.contextmanager
def reading(file: object, what: str) -> Iterator[None]:
    """Around what looks into the content of a user's file: whatever that may raise is one line that names the file.

    Args:
        file: The file, or the folder.
        what: What was expected, as in `the record of a run`.

    Raises:
        UserError: In place of any other error.
    """
    try:
        yield
    except UserError as error:
        if str(file) in str(error):
            raise
        raise UserError(f"{file}: {error}") from None
    except (KeyError, IndexError) as error:
        raise UserError(f"{file} has no {error}, and so is not {what}; it is damaged or something else") from None
    except Exception as error:  # content of any kind raises errors of any kind
        reason = f"{type(error).__name__}: {first_line(error, 120)}"
        raise UserError(f"{file} is not {what} ({reason}); it is damaged or something else") from None
