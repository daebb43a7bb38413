"""Options of the command line, made from the classes that use them by tyro: declared once, checked where declared.

tyro reads dataclasses, types and docstrings, needs no torch for it, nests (`--repair.lr`), and suggests the closest
name; what is here puts several classes on one page, shows the common options alone unless asked for all, and says a
mistake in one line.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import io
import re
import sys
import textwrap
import warnings
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

import docstring_parser
import tyro

from rlprune.agents.commands.complaints import ALIASES, check_given, in_a_line
from rlprune.errors import HelpShown, Notice, UserError
from rlprune.typed import kinds_of

APPENDED = {"keep", "set"}
PERCENT = re.compile(r"[\d.]*\d%")
NUMBERS = re.compile(r"[\d.+-][\d.e+-]*(,[\d.+-][\d.e+-]*)+")


@dataclass(frozen=True)
class Section:
    """The fields of a dataclass as options.

    Attributes:
        cls: The class; its docstring's `Attributes` are the help.
        name: Prefix, as in `--repair.lr`; empty puts the fields at the top.
        default: An instance that the defaults are taken from.
        skip: Fields that are no options.
    """

    cls: Any
    name: str = ""
    default: Any = None
    skip: Collection[str] = ()

    def fields(self) -> Iterable[tuple[str, Any, Any, str]]:
        """Name, type, default and help of every option."""
        rows, notes, hints = dataclasses.fields(self.cls), notes_of(self.cls), kinds_of(self.cls)
        for item in rows:
            kind = hints[item.name]
            if item.name in self.skip or dataclasses.is_dataclass(kind) or get_origin(kind) is Mapping:
                continue
            if self.default is not None:
                default = getattr(self.default, item.name)
            elif item.default is not dataclasses.MISSING:
                default = item.default
            else:
                default = item.default_factory() if item.default_factory is not dataclasses.MISSING else tyro.MISSING
            yield item.name, hints[item.name], default, notes.get(item.name, "")


@dataclass(frozen=True)
class Run:
    """What everything that writes a run folder takes.

    Attributes:
        out: Run folder; a new one under runs/ unless given.
        resume: Go on with the run in `--out`; prune finds the newest unfinished one itself.
        quiet: No progress, no table.
        json: Print the record as JSON.
        trust: Run the Python file that the record to go on with names: it is yours, or you have looked at it.
    """

    out: str | None = None
    resume: bool = False
    trust: bool = False
    quiet: bool = False
    json: bool = False


@dataclass(frozen=True)
class Json:
    """For commands that only look.

    Attributes:
        json: Print JSON.
    """

    json: bool = False


@dataclass(frozen=True)
class Trust:
    """For commands that build the network that a record names.

    Attributes:
        model: The unpruned network, in place of what the record names.
        trust: Run the Python file that the record names for its network: it is yours, or you have looked at it.
    """

    model: str | None = None
    trust: bool = False


FORMER = {"--prc-afp-": "--press-", "--finetune-": "--finish-", "--total-": "--", "--": "--"}
"""Beginnings of options as they were, and as they are; the first hyphen behind them may be a point by now."""


def notes_of(cls: Any) -> dict[str, str]:
    """Field name -> its text in the class docstring, or a base's; names shared by a line are told alike."""
    found = {}
    for base in reversed(cls.__mro__):
        for entry in docstring_parser.parse(base.__doc__ or "").params:
            for name in entry.arg_name.split(","):
                found[name.strip()] = " ".join((entry.description or "").split())
    return found


def parse(
    command: str,
    sections: Sequence[Section],
    argv: Sequence[str],
    *,
    common: Collection[str] | None = None,
    positional: Mapping[str, str] | None = None,
    about: str = "",
    examples: str = "",
) -> dict[str, Any]:
    """Values by option name; of a named section a dict of its own.

    Args:
        command: As in `prune`, for messages.
        sections: What there is.
        argv: What was given.
        common: Names that `--help` shows; the rest is for `--help-all`. None shows all.
        positional: Arguments without a flag, with their help.
        about: What the command does, a line.
        examples: For the help.

    Raises:
        UserError: For a mistake, in one line.
        HelpShown: After help was printed.
    """
    whole = "--help-all" in argv
    if whole or "-h" in argv or "--help" in argv:
        shown = None if whole else common
        _call(command, _table(sections, positional or {}, shown), ["--help"], about, {})
        more = "" if shown is None else f"\nAll options: rlprune {command} --help-all"
        print(f"examples:\n{_wrapped(examples)}{more}")
        raise HelpShown(0)
    kinds = _kinds(sections)
    check_given(kinds, argv)
    found = _call(command, _table(sections, positional or {}, None), _words(kinds, argv), about, kinds)
    values: dict[str, Any] = {}
    for item in dataclasses.fields(found):
        value = getattr(found, item.name)
        if dataclasses.is_dataclass(value):
            value = {inner.name: _split(getattr(value, inner.name)) for inner in dataclasses.fields(value)}
        values[item.name.removesuffix("_")] = _split(value)
    return values


def _wrapped(examples: str, width: int = 79) -> str:
    """Commands that go on in the next line as a shell takes them."""
    wrap = functools.partial(textwrap.wrap, width=width - 2, break_long_words=False, break_on_hyphens=False)
    return "\n".join(
        " \\\n".join(wrap(line.strip(), initial_indent="  ", subsequent_indent="      "))
        for line in examples.splitlines()
    )


def _table(sections: Sequence[Section], positional: Mapping[str, str], shown: Collection[str] | None) -> Any:
    """A dataclass of all options, or of those that are shown."""
    made: list[Any] = [
        (name, Annotated[str, tyro.conf.Positional, tyro.conf.arg(help=text, metavar=name.upper())])
        for name, text in positional.items()
    ]
    for section in sections:
        rows = []
        for name, kind, default, text in section.fields():
            if shown is not None and (name if not section.name else f"{section.name}.{name}") not in shown:
                continue
            extra = [tyro.conf.UseAppendAction] if name in APPENDED else []
            text = text if shown is None else _first(text)
            note = tyro.conf.arg(help=text, aliases=ALIASES.get(name, ()), help_behavior_hint=_hint(default))
            start = field(default_factory=default.copy) if isinstance(default, list) else field(default=default)
            marks = (kind, note, *extra)
            rows.append((name, Annotated[marks], start))
        if not section.name:
            made += rows
        elif rows:
            inner = dataclasses.make_dataclass(section.name.replace("-", "_").title(), rows)
            made.append((section.name.replace("-", "_"), inner, field(default_factory=inner)))
    return dataclasses.make_dataclass("Options", made)


def _hint(default: Any) -> str:
    if default in (None, (), "", False) or default is tyro.MISSING:
        return ""
    return f"(default: {', '.join(map(str, default)) if isinstance(default, tuple) else default})"


def _first(text: str) -> str:
    """What an option does, without the small print."""
    return re.split(r"[;:.,(]\s|\.$", text)[0]


def _call(command: str, table: Any, argv: Sequence[str], about: str, kinds: Mapping[str, Any]) -> Any:
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return tyro.cli(table, prog=f"rlprune {command}", description=about or None, args=list(argv))
    except SystemExit as end:
        if end.code in (0, None):
            return None
        raise UserError(f"{in_a_line(said.getvalue(), argv, kinds)} (see rlprune {command} --help)") from None


def _kinds(sections: Sequence[Section]) -> dict[str, Any]:
    """The type of every option by its flag, aliases included."""
    return {
        (f"--{section.name}.{name}" if section.name else flag).replace("_", "-"): kind
        for section in sections
        for name, kind, _, _ in section.fields()
        for flag in (f"--{name}", *ALIASES.get(name, ()))
    }


def _words(types: Mapping[str, Any], argv: Sequence[str]) -> list[str]:
    """What was given, as tyro takes it.

    `--amp` alone is on, of options that may be on, off, or something else; `none` is None where that can be;
    `0.1,0.2` are two numbers, and `50%` is one; `--keep a b` is `--keep a --keep b`.
    """
    kinds = {flag: get_args(kind) for flag, kind in types.items()}
    shares = {flag for flag, kind in types.items() if float in (kind, *get_args(kind))}
    found, before, last = list[str](), "", ""
    argv = [_renamed(text, kinds) for text in argv]
    for text, after in zip(argv, [*argv, "--"][1:], strict=True):
        flag, equals, value = text.partition("=")
        last = flag if flag.startswith("--") else last
        off = text.replace("--no-", "--", 1)
        if len(kinds.get(text, ())) > 1 and bool in kinds[text] and after.startswith("--"):
            found += [text, "True"]
        elif off != text and bool in kinds.get(off, ()):
            found += [off, "False"]
        elif last[2:] in APPENDED and before != last and not text.startswith("--"):
            found += [last, text]
        elif text == "none" and type(None) in kinds.get(before, ()):
            found.append("None")
        elif last in shares and PERCENT.fullmatch(text):
            found.append(f"{float(text[:-1]) / 100:.12g}")
        elif flag in shares and PERCENT.fullmatch(value):
            found.append(f"{flag}={float(value[:-1]) / 100:.12g}")
        elif equals and value == "none" and type(None) in kinds.get(flag, ()):
            found.append(f"{flag}=None")
        else:
            values = value.split(",") if NUMBERS.fullmatch(value) else []
            found += text.split(",") if NUMBERS.fullmatch(text) else [flag, *values] if values else [text]
        before = text
    return found


def _renamed(text: str, known: Collection[str]) -> str:
    """An option by its name before the phases and rules had options of their own (`--prc-alpha`), by that of today."""
    flag, equals, value = text.partition("=")
    for old, new in FORMER.items():
        now = flag.replace(old, new, 1)
        now = now if now in known else now[:2] + now[2:].replace("-", ".", 1)
        if flag.startswith(old) and flag not in known and now in known:
            warnings.warn(f"{flag} is called {now} now", Notice, stacklevel=2)
            return now + equals + value
    return text


def _split(value: Any) -> Any:
    """`a,b` in a list of names is two of them, and `none` is no list."""
    if isinstance(value, tuple) and all(isinstance(part, str) for part in value):
        return tuple(word for part in value for word in part.split(",") if word not in ("none", ""))
    return value


def value_of(argv: Sequence[str], flag: str) -> str | None:
    """The value of a flag, before the options that it decides are known."""
    for place, text in enumerate(argv):
        if text == flag and place + 1 < len(argv):
            return argv[place + 1]
        if text.startswith(flag + "="):
            return text.partition("=")[2]
    return None


def folder_to_resume(argv: Sequence[str]) -> Path | None:
    """Where to go on, if `--resume` is given; raises UserError without `--out`."""
    if "--resume" not in argv or "--help" in argv:
        return None
    out = value_of(argv, "--out")
    if out is None:
        raise UserError("--resume needs the folder to go on with: name it with --out")
    return Path(out)


def check_resumed(file: Path, specs: Iterable[Any], argv: Sequence[str]) -> None:
    """Raise UserError if a run to go on with would run code that its file names and nobody here knows of."""
    from rlprune.trust import check_code  # needs torch

    check_code(file, specs, trust="--trust" in argv, argv=argv)


def command_line() -> str:
    """The command as it was given, for the record."""
    import shlex

    return shlex.join(["rlprune", *sys.argv[1:]])
