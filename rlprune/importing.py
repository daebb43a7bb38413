"""A user's own Python files and packages, imported by name."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import importlib.util
import json
import re
import sys
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path
from types import ModuleType
from typing import Any, TextIO

from rlprune.errors import UserError, first_line, unknown_name
from rlprune.files import cache_folder


def module_by_name(name: str) -> ModuleType:
    """An installed package's module, or one in the current folder; raises UserError if it cannot be imported."""
    with _importable(Path.cwd()):
        try:
            with said_aside():
                return importlib.import_module(name)
        except (Exception, SystemExit) as error:
            raise _import_error(name, error) from None


def module_from_file(path: Path) -> ModuleType:
    """The module in a file, once for each content of it; raises UserError if there is none or it does not run."""
    if not path.is_file():
        raise UserError(f"no such file: {path}; give a Python file, as in file.py:name")
    path, name = path.resolve(), _module_name(path)
    if name in sys.modules:
        return sys.modules[name]
    location = importlib.util.spec_from_file_location(name, path)
    if location is None or location.loader is None:
        raise UserError(f"{path} cannot be imported as Python")
    module = importlib.util.module_from_spec(location)
    sys.modules[name] = module  # classes defined there can be copied and pickled only if their module can be found
    with _importable(path.parent):
        try:
            with said_aside():
                location.loader.exec_module(module)
        except (Exception, SystemExit) as error:
            del sys.modules[name]
            raise _import_error(str(path), error) from None
    with contextlib.suppress(OSError):  # then its reader is asked about it
        (cache_folder() / "code").mkdir(parents=True, exist_ok=True)
        (cache_folder() / "code" / name).touch()
    return module


def is_known(path: Path) -> bool:
    """Whether this user has run the file as it is now: in this process, or in one before it.

    Nothing gets that far that was not named by hand, or trusted (`rlprune.trust`).
    """
    return path.is_file() and ((name := _module_name(path)) in sys.modules or (cache_folder() / "code" / name).exists())


def _module_name(path: Path) -> str:
    content = str(path.resolve()).encode() + path.read_bytes()
    return f"rlprune_file_{hashlib.sha256(content).hexdigest()}"


def user_module(name: str) -> ModuleType:
    """`file.py` or `package.module`."""
    return module_from_file(Path(name)) if name.endswith(".py") else module_by_name(name)


def file_and_name(spec: str) -> tuple[str, str] | None:
    """The parts of `file.py:name`, the name empty for `file.py`; None for anything else."""
    end = re.search(r"\.py(:|$)", spec)
    return None if end is None else (spec[: end.start(1)], spec[end.end() :])


def object_in(file: str | Path, name: str, kind: str) -> Any:
    """What a user's file calls `name`; raises UserError with what it has if there is no such thing in it."""
    module = user_module(str(file))
    own = [key for key, value in vars(module).items() if getattr(value, "__module__", None) == module.__name__]
    if not name:
        listed = " or ".join(f"{file}:{one}" for one in own) or "it holds none"
        raise UserError(f"{file} is a file; say what of it is the {kind}: {listed}")
    if getattr(module, name, None) is None:
        raise unknown_name(f"{kind} in {file}", name, own)
    return getattr(module, name)


def files_named(spec: str) -> list[str]:
    """The Python files in a specification: of `file.py`, `file.py:name`, or such parts of another."""
    return re.findall(r"[^=;:]+\.py(?=[:;,]|$)", spec)


def said_aside() -> contextlib.AbstractContextManager[object]:
    """What a user's code prints goes to the error stream: standard output is for results."""
    return contextlib.redirect_stdout(sys.stderr)


_RESULTS: ContextVar[TextIO | None] = ContextVar("results", default=None)


@contextlib.contextmanager
def only_results() -> Iterator[None]:
    """Keep standard output for `print_json` alone: whatever else is printed meanwhile goes to the error stream."""
    before = _RESULTS.set(sys.stdout)
    try:
        with said_aside():
            yield
    finally:
        _RESULTS.reset(before)


def print_json(content: Any) -> None:
    """Print a result as JSON."""
    print(json.dumps(content, indent=2), file=_RESULTS.get() or sys.stdout)


@contextlib.contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """Let imports inside find modules of `folder`, as `python file.py` would."""
    entry = str(folder)
    added = entry not in sys.path
    if added:
        sys.path.insert(0, entry)
    try:
        yield
    finally:
        if added and entry in sys.path:
            sys.path.remove(entry)


def _import_error(what: str, error: BaseException) -> UserError:
    return UserError(f"cannot import {what} ({type(error).__name__}: {first_line(error)}); see that it runs by itself")
