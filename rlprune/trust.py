"""Whose code a file names: what a record says is run only if its reader knows of it."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from rlprune.errors import UserError
from rlprune.importing import files_named, is_known
from rlprune.models.resolving import code_of
from rlprune.spec import ProblemSpec

NAMING = ("--model", "--models", "--task", "--data")
"""Options by which code is named by hand."""


def check_code(file: Path, specs: Iterable[ProblemSpec], *, trust: bool, argv: Sequence[str] = ()) -> None:
    """Raise UserError if building what a file describes would run code that its reader does not know of.

    Known is what the command line names, and what this user has run before, as it is now (`rlprune.importing`).

    Args:
        file: Says what is built.
        specs: What it says.
        trust: Run it all the same.
        argv: The command line.
    """
    by_hand = set(_named(argv))
    for spec in [] if trust else specs:
        model = code_of(spec.model) if spec.model not in by_hand else None
        files = [file for text in (spec.task or "", spec.data) for file in files_named(text)]
        own = [file for file in files if file not in by_hand and not is_known(Path(file))]
        code = next(filter(None, [model, *own]), None)
        if code is None:
            continue
        owner = ""
        with contextlib.suppress(OSError, KeyError, NotImplementedError):  # a module, no such file, or nobody's
            owner = f" (a file of {Path(code).owner()})"
        raise UserError(
            f"{file} names {code}{owner}, which would be run to build the problem; look at it, then add --trust"
            + (", or name the network yourself with --model" if code == model else "")
        )


def _named(argv: Sequence[str]) -> Iterable[str]:
    """The values of the options that name code, of MODEL=WEIGHTS the parts, and the files in them."""
    flag = ""
    for word in argv:
        if word.startswith("--"):
            flag, _, word = word.partition("=")
        if flag in NAMING:
            yield from [*re.split("[,=]", word), *files_named(word)]
