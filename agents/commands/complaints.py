"""What was wrong with the options given, in one line."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from typing import Any, get_args, get_origin

from rlprune.errors import UserError
from rlprune.typed import words

ALIASES = {"budget": ("--target-macs",), "methods": ("--controllers",), "algorithm": ("--algo",)}
_NAMES = [(f"--{name}", *others) for name, others in ALIASES.items()]


def check_given(kinds: Mapping[str, Any], argv: Sequence[str]) -> None:
    """Raise UserError for an option whose value is nothing."""
    for text, after in zip(argv, [*argv, "--"][1:], strict=True):
        flag, equals, value = text.partition("=")
        if flag in kinds and not value and (equals or not after):
            raise UserError(f"{flag} is empty; give a value, or leave it out")
        if text in kinds and after.startswith("--") and bool not in (kinds[text], *get_args(kinds[text])):
            several = get_origin(kinds[text]) is tuple
            raise UserError(
                f"{flag} is empty; give {'at least one, or none' if several else 'a value, or leave it out'}"
            )


def in_a_line(text: str, argv: Sequence[str], kinds: Mapping[str, Any]) -> str:
    """What tyro says in a box, without the box; its first part is the message, the others help."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", text)
    rows = [re.sub(r"^[│|]\s*|\s*[│|]$", "", row.strip()) for row in plain.splitlines()]
    inside = [row for row in rows if row and row[0] not in "╭╰+"]
    parts = "\n".join("" if set(row) <= set("─-") else row for row in inside).split("\n\n")
    parts = parts if "╭" in plain else parts[1:]  # without such letters the title is a part of its own
    message = re.sub(r"^Unrecognized options?: ", "unknown option ", " ".join("".join(parts[:1]).split())).rstrip(".")
    wrong = re.match(r"Error parsing (--[\w.-]+)", message)
    lacking = re.match(r"Missing from [^:]*: (--[\w.-]+|\w+) (?:[A-Z]{2,} )?(.*?)\.? \(required\)", message)
    if lacking and not message.count("(required)") > 1:
        return f"{lacking[1]} is missing; it must be {lacking[2][0].lower()}{lacking[2][1:]}"
    if wrong and wrong[1] in kinds:
        names = next((row for row in _NAMES if wrong[1] in row), (wrong[1],))
        flag = next(name for text in [*argv, wrong[1]] for name in names if text.partition("=")[0] == name)
        after = " ".join(argv).partition(flag)[2]
        return f"{flag} is {after.split(' --')[0].strip(' =')!r}; it must be {_asked(kinds[flag])}"
    close = [row.split()[0].rstrip(",") for part in parts[1:] for row in part.splitlines() if row.startswith("--")]
    if message.startswith("unknown option --"):
        close = [*difflib.get_close_matches(message.split()[2].rstrip(",").lower(), kinds, n=1), *close]
    hint = f"; did you mean {close[0]}?" if close and message.startswith("unknown") else ""
    return f"{message or 'the options are not understood'}{hint}"


def _asked(kind: Any) -> str:
    """What values of a type are called on the command line."""
    if get_origin(kind) in (tuple, list):
        return f"{words(get_args(kind)[0]).removeprefix('a ')}s, with spaces or commas between them"
    return words(kind).replace("null", "none")
