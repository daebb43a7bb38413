"""One process at a time writes a run folder."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from rlprune.errors import UserError

try:
    import fcntl
except ImportError:  # no such locks on this system: nothing is kept out
    fcntl = None  # type: ignore[assignment]

NAME = ".lock"
KINDS = ("record.json", "comparison.json", "population.json", "settings.json")
"""The file that a run of each kind begins with: a network's, a comparison's, a population's, an agent's or a scan's."""


@contextlib.contextmanager
def locked(folder: Path, kind: str) -> Iterator[None]:
    """Keep other processes out of a folder, which is made if need be, for a run of a kind (of `KINDS`).

    The operating system holds the lock, so that it ends with its process, however that ends, and a file that was left
    behind locks nothing; on a network's disk it holds for all machines. The file only says whose it is.

    Raises:
        UserError: If another process has it; names that process. If the folder cannot be written, or holds a run of
            another kind.
    """
    others = [file for file in KINDS if (folder / file).exists()]
    if others and kind not in others:
        raise UserError(f"{folder} holds a run of another kind ({others[0]}); choose another --out")
    if folder.resolve() in (Path(folder.resolve().anchor), Path.home()):
        raise UserError(f"--out is {folder}, where everything is; give a folder of its own")
    made = not folder.exists()
    descriptor = _taken(folder)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            (folder / NAME).unlink()
        os.close(descriptor)
        if made:
            with contextlib.suppress(OSError):
                folder.rmdir()  # where nothing was written


def _taken(folder: Path) -> int:
    """The descriptor of the file that is locked, which has this process's name in it."""
    path = folder / NAME
    while True:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise UserError(f"cannot write {path}: {error.strerror}; choose another --out") from None
        try:
            _lock(descriptor)
            if _is(path, descriptor):
                os.ftruncate(descriptor, 0)
                since = time.strftime("%Y-%m-%d %H:%M:%S")
                os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()} since {since}".encode())
                return descriptor
        except BlockingIOError:
            holder = os.read(descriptor, 200).decode(errors="replace") or "another process"
            os.close(descriptor)
            raise UserError(f"{folder} is in use by {holder}; wait until that ends, or choose another --out") from None
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # whoever had it took the file away just now


def _lock(descriptor: int) -> None:
    if fcntl is None:
        return
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        raise BlockingIOError from None
    except OSError:  # a disk that knows no locks keeps nothing out
        return


def _is(path: Path, descriptor: int) -> bool:
    """Whether the file that is open is still the one of this name."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False
