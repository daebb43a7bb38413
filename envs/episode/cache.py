"""Scores on disk, shared by worker processes and by runs.

The key of a score is a hash of everything that it depends on (`transitions`), so a hit is what a fresh evaluation would
give, bit for bit: floats are stored by their shortest exact decimal form. A row carries a checksum; one that is
damaged, or holds what no evaluation gives, is not believed, and replaced by the score computed anew.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import sqlite3
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from rlprune.errors import UserError
from rlprune.tasks import Score

SCHEMA = """
CREATE TABLE IF NOT EXISTS scores (
    key TEXT PRIMARY KEY, score TEXT NOT NULL, parent TEXT NOT NULL, removed TEXT NOT NULL
) WITHOUT ROWID
"""
REMEMBERED = 2048  # scores that a process keeps at hand

T = TypeVar("T")


class MemoryScores:
    """The latest scores of this process."""

    def __init__(self) -> None:
        self._scores: OrderedDict[str, Score] = OrderedDict()

    def get(self, key: str, like: Score | None = None) -> Score | None:
        """The score kept under `key`, or None; `like` is one of the same images, for those read from a file."""
        return self._scores.get(key)

    def put(self, key: str, score: Score, parent: str = "", removed: Mapping[str, int] | None = None) -> None:
        """Keep the score of a network that was made by taking `removed` filters from the one with key `parent`.

        The oldest one goes where there are too many.
        """
        self._scores[key] = score
        if len(self._scores) > REMEMBERED:
            self._scores.popitem(last=False)

    def close(self) -> None:
        """Let go of files; here there are none."""


def open_store(path: str | None) -> MemoryScores:
    """The cache in the file `path`, or one that lasts as long as the process."""
    return MemoryScores() if path is None else ScoreCache(path)


class ScoreCache(MemoryScores):
    """Scores in an SQLite file, and those of this process in memory.

    Any number of processes may read and write at once; writers of one key wrote the same. A process killed while
    writing leaves the file whole.

    Args:
        path: The file; it is made if it is not there.

    Raises:
        UserError: If the file cannot be written, or is something else.
    """

    def __init__(self, path: str | Path) -> None:
        super().__init__()
        self.path = Path(path)
        self._process = -1
        self._connection: sqlite3.Connection | None = None
        self._connect()

    def get(self, key: str, like: Score | None = None) -> Score | None:
        """The score kept under `key`, or None if there is none to be believed; `like` is one of the same images."""
        found = super().get(key)
        if found is None:
            query = "SELECT parent, removed, score FROM scores WHERE key = ?"
            row = self._ask(lambda connection: connection.execute(query, (key,)).fetchone())
            found = None if row is None else _read((key, *row[:2]), row[2], like)
            if found is not None:
                super().put(key, found)
        return found

    def put(self, key: str, score: Score, parent: str = "", removed: Mapping[str, int] | None = None) -> None:
        """Keep a score in memory and in the file."""
        super().put(key, score)
        content, gone = score.to_json(), json.dumps(dict(removed or {}))
        text = json.dumps({**content, "check": _checksum((key, parent, gone), content)})
        row = (key, text, parent, gone)

        def write(connection: sqlite3.Connection) -> None:
            with connection:
                connection.execute("INSERT OR REPLACE INTO scores VALUES (?, ?, ?, ?)", row)

        self._ask(write)

    def children(self, parent: str) -> Iterator[tuple[str, dict[str, int], Score]]:
        """Key, removed counts and score of every network made from the one with key `parent`, in order of key."""
        query = "SELECT key, removed, score FROM scores WHERE parent = ? ORDER BY key"
        for key, removed, text in self._ask(lambda connection: connection.execute(query, (parent,)).fetchall()):
            score = _read((key, parent, removed), text, None)
            if score is not None:
                yield key, json.loads(removed), score

    def __len__(self) -> int:
        """How many scores the file holds."""
        return int(self._ask(lambda connection: connection.execute("SELECT COUNT(*) FROM scores").fetchone()[0]))

    def close(self) -> None:
        """Close the file; it opens again when it is needed."""
        if self._connection is not None and self._process == os.getpid():
            self._connection.close()
        self._connection = None

    def _ask(self, what: Callable[[sqlite3.Connection], T]) -> T:
        try:
            return what(self._connect())
        except sqlite3.Error as error:
            raise self._unusable(error) from None

    def _unusable(self, error: Exception) -> UserError:
        return UserError(f"cannot keep scores in {self.path} ({error}); give another file for --cache")

    def _connect(self) -> sqlite3.Connection:
        """This process's connection: one taken through a fork must not be used."""
        if self._connection is None or self._process != os.getpid():
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                connection = sqlite3.connect(self.path, timeout=60.0, check_same_thread=False)
                try:
                    connection.execute("PRAGMA journal_mode = WAL")
                    connection.execute("PRAGMA synchronous = NORMAL")
                    connection.execute(SCHEMA)
                    connection.commit()
                except sqlite3.Error:
                    connection.close()
                    raise
            except (OSError, sqlite3.Error) as error:
                raise self._unusable(error) from None
            self._connection, self._process = connection, os.getpid()
        return self._connection

    def __getstate__(self) -> dict[str, object]:
        return {"path": self.path}

    def __setstate__(self, state: dict[str, Path]) -> None:
        self.__init__(state["path"])  # type: ignore[misc]


def _checksum(about: Sequence[str], content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps([*about, content], sort_keys=True).encode()).hexdigest()[:16]


def _read(about: Sequence[str], text: str, like: Score | None) -> Score | None:
    """The score of a row, or None if it is not as it was written, or not one of the images and the range of `like`."""
    try:
        content = json.loads(text)
        if content.pop("check") != _checksum(about, content):
            return None
        score = Score(**content)
    except (ValueError, TypeError, KeyError, AttributeError):
        return None
    if not math.isfinite(score.value) or (like is not None and (score.n, score.metric) != (like.n, like.metric)):
        return None
    if like is not None and 0.0 <= like.value <= 1.0 and not 0.0 <= score.value <= 1.0:
        return None  # nearly all metrics lie there; one that only may pays with an evaluation
    return score
