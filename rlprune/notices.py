"""Warnings on the error stream of a command: in a line each, and none beside a mistake that ends it."""

from __future__ import annotations

import contextlib
import sys
import warnings
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any, TextIO

from rlprune.errors import Notice, UserError, printable


class _Waiting:
    """Stands for a command's error stream: what is held is said before the first word that somebody else writes."""

    def __init__(self, stream: TextIO, command: str) -> None:
        self.stream, self.command = stream, command
        self.held: list[str] | None = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        """Write, after what is held."""
        self.release()
        return self.stream.write(text)

    def say(self, text: str) -> None:
        """Hold a line, or write it where the work has begun."""
        if self.held is None:
            sys.stderr.write(text)  # which a live display may stand for by now
        else:
            self.held.append(text)

    def release(self) -> None:
        """Write what is held, and hold nothing from now on."""
        held, self.held = self.held, None
        for text in held or ():
            self.stream.write(text)


_CURRENT: ContextVar[_Waiting | None] = ContextVar("waiting", default=None)


def tell(text: str) -> None:
    """Say a line of the command that runs, when its work begins."""
    if (waiting := _CURRENT.get()) is not None:
        waiting.say(f"rlprune {waiting.command}: {printable(text)}\n")


@contextlib.contextmanager
def holding(command: str) -> Iterator[None]:
    """Hold warnings until a command writes its first word of progress, or ends; a mistake is told without them.

    Args:
        command: Its name, which begins a notice's line. Other warnings, of packages, are told as Python does.
    """
    waiting, show = _Waiting(sys.stderr, command), warnings.showwarning

    def showwarning(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
        if issubclass(category, Notice):
            tell(str(message))
        elif waiting.held is None:
            show(message, category, *where, **more)
        else:
            waiting.say(warnings.formatwarning(message, category, *where[:2]))

    warnings.showwarning, before = showwarning, _CURRENT.set(waiting)
    try:
        with contextlib.redirect_stderr(waiting):
            yield
    except UserError:
        raise
    except BaseException:
        waiting.release()
        raise
    finally:
        _CURRENT.reset(before)
    waiting.release()
