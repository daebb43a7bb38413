"""Checksums over the content of files: what was damaged on the disk is never taken for what was written."""

from __future__ import annotations

import hashlib
import json
import struct
from pathlib import Path
from typing import IO, Any

from rlprune.errors import UserError

KEY, HOW = "checksum", "sha256:"
TIME_KEYS = frozenset({"time", "latency", "versions", "command", "out", KEY})
"""Keys of a record that two runs of one experiment may differ in, and the checksum, which follows from the others."""

MARK, DIGITS, BLOCK = b"rlprune sha256 ", 64, 2**20


def comparable(record: Any) -> Any:
    """A record without the times in it: equal for two runs of one experiment, read back from JSON or not."""
    if isinstance(record, dict):
        return {key: comparable(value) for key, value in record.items() if key not in TIME_KEYS}
    if isinstance(record, (list, tuple)):
        return [comparable(value) for value in record]
    return record


def with_checksum(content: Any) -> Any:
    """A table of JSON with its checksum as its last entry; anything else as it is. NaN is refused.

    Times are left out of it, so that two runs of one experiment have the same.
    """
    plain = json.loads(json.dumps(content, allow_nan=False))
    return {**plain, KEY: _checksum(plain)} if isinstance(plain, dict) else plain


def without_checksum(path: Path, content: Any) -> Any:
    """What `with_checksum` was given; a table without one is somebody else's.

    Raises:
        UserError: If the content is not what the checksum was made of.
    """
    given = content.get(KEY) if isinstance(content, dict) else None
    if not isinstance(given, str) or not given.startswith(HOW):
        return content
    content = {key: value for key, value in content.items() if key != KEY}
    if _checksum(content) != given:
        raise damaged(path, f"its content does not match its checksum; who edits it by hand takes out {KEY!r}")
    return content


def write_sealed(archive: memoryview, file: IO[bytes]) -> None:
    """Write a zip archive with the SHA-256 of all its bytes as its comment, which other readers skip.

    `torch.save`, `numpy.savez` and Stable-Baselines3 write such archives, without a comment of their own.
    """
    body, note = archive[:-2], struct.pack("<H", len(MARK) + DIGITS) + MARK  # the length of the comment comes last
    digest = hashlib.sha256(body)
    digest.update(note)
    file.write(body)
    file.write(note + digest.hexdigest().encode())


def check_seal(path: Path, *, needed: bool) -> None:
    """Raise UserError if a file is not as `write_sealed` wrote it; one without a seal is, if it is `needed`."""
    with path.open("rb") as file:
        left = max(path.stat().st_size - DIGITS, 0)
        file.seek(max(left - len(MARK), 0))
        mark, given = file.read(len(MARK)), file.read()
        if mark != MARK:
            if needed:
                raise damaged(path, "it has no checksum, or is of an older version")
            return
        digest = hashlib.sha256()
        file.seek(0)
        while left > 0:
            block = file.read(min(left, BLOCK))
            digest.update(block)
            left -= len(block) or left
    if digest.hexdigest().encode() != given:
        raise damaged(path, "its content does not match its checksum")


def damaged(path: Path, why: str) -> UserError:
    """The error for a file that is not as it was written."""
    return UserError(f"{path} is damaged ({why}); take it from a backup, or delete it and make it anew")


def _checksum(content: dict[str, Any]) -> str:
    text = json.dumps(comparable(content), sort_keys=True)
    return HOW + hashlib.sha256(text.encode()).hexdigest()[:16]
