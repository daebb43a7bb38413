"""Scores on disk, shared by worker processes and by runs.

The key of a score is a hash of everything that it depends on (`transitions`), so a hit is what a fresh evaluation would
give, bit for bit: floats are stored by their shortest exact decimal form.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Protocol

from rlprune.errors import UserError
from rlprune.tasks import Score

SCHEMA = """
CREATE TABLE IF NOT EXISTS scores (
    key TEXT PRIMARY KEY, score TEXT NOT NULL, parent TEXT NOT NULL, removed TEXT NOT NULL
) WITHOUT ROWID
"""


class ScoreStore(Protocol):
    """Where scores are kept."""

    def get(self, key: str) -> Score | None:
        """The score kept under `key`, or None."""
        ...

    def put(self, key: str, score: Score, parent: str = "", removed: Mapping[str, int] | None = None) -> None:
        """Keep the score of a network that was made by taking `removed` filters from the one with key `parent`."""
        ...


class MemoryScores:
    """Scores of this process."""

    def __init__(self) -> None:
        self._scores: dict[str, Score] = {}

    def get(self, key: str) -> Score | None:
        """The score kept under `key`, or None."""
        return self._scores.get(key)

    def put(self, key: str, score: Score, parent: str = "", removed: Mapping[str, int] | None = None) -> None:
        """Keep a score."""
        self._scores[key] = score


def open_store(path: str | None) -> ScoreStore:
    """The cache in the file `path`, or one that lasts as long as the process."""
    return MemoryScores() if path is None else ScoreCache(path)


class ScoreCache:
    """Scores in an SQLite file, and those of this process in memory.

    Any number of processes may read and write at once; of two writers of one key the first wins, and both wrote the
    same. A process killed while writing leaves the file whole.

    Args:
        path: The file; it is made if it is not there.

    Raises:
        UserError: If the file cannot be written, or is something else.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._memory: dict[str, Score] = {}
        self._process = -1
        self._connection: sqlite3.Connection | None = None
        self._connect()

    def get(self, key: str) -> Score | None:
        """The score kept under `key`, or None."""
        if key not in self._memory:
            row = self._connect().execute("SELECT score FROM scores WHERE key = ?", (key,)).fetchone()
            if row is None:
                return None
            self._memory[key] = Score(**json.loads(row[0]))
        return self._memory[key]

    def put(self, key: str, score: Score, parent: str = "", removed: Mapping[str, int] | None = None) -> None:
        """Keep a score."""
        self._memory[key] = score
        row = (key, json.dumps(score.to_json()), parent, json.dumps(dict(removed or {})))
        connection = self._connect()
        with connection:
            connection.execute("INSERT OR IGNORE INTO scores VALUES (?, ?, ?, ?)", row)

    def children(self, parent: str) -> Iterator[tuple[str, dict[str, int], Score]]:
        """Key, removed counts and score of every network made from the one with key `parent`, in order of key."""
        query = "SELECT key, removed, score FROM scores WHERE parent = ? ORDER BY key"
        for key, removed, score in self._connect().execute(query, (parent,)).fetchall():
            yield key, json.loads(removed), Score(**json.loads(score))

    def __len__(self) -> int:
        return int(self._connect().execute("SELECT COUNT(*) FROM scores").fetchone()[0])

    def close(self) -> None:
        """Close the file; it opens again when it is needed."""
        if self._connection is not None and self._process == os.getpid():
            self._connection.close()
        self._connection = None

    def _connect(self) -> sqlite3.Connection:
        """This process's connection: one taken through a fork must not be used."""
        if self._connection is None or self._process != os.getpid():
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                connection = sqlite3.connect(self.path, timeout=60.0, check_same_thread=False)
                connection.execute("PRAGMA journal_mode = WAL")
                connection.execute("PRAGMA synchronous = NORMAL")
                connection.execute(SCHEMA)
                connection.commit()
            except (OSError, sqlite3.Error) as error:
                raise UserError(f"cannot keep scores in {self.path} ({error}); give another file for --cache") from None
            self._connection, self._process = connection, os.getpid()
        return self._connection

    def __getstate__(self) -> dict[str, object]:
        return {"path": self.path}

    def __setstate__(self, state: dict[str, Path]) -> None:
        self.__init__(state["path"])  # type: ignore[misc]
