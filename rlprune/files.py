"""Files that appear whole or not at all."""

from __future__ import annotations

import io
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from rlprune.errors import UserError


def write_whole(path: Path, write: Callable[[IO[bytes]], Any]) -> None:
    """Write a file beside `path`, flush it to the disk, and rename it into place.

    A reader, or a process killed at any moment, sees the old file or the new one and never a part of either.

    Raises:
        UserError: If the file cannot be written (disk full, no permission); nothing is left behind.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    except OSError as error:
        raise _unwritable(path, error) from None
    try:
        with os.fdopen(descriptor, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException as error:
        Path(temporary).unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise _unwritable(path, error) from None
        raise


def _unwritable(path: Path, error: OSError) -> UserError:
    return UserError(f"cannot write {path}: {error.strerror or error}; free some space or choose another --out")


def write_text(path: Path, text: str) -> None:
    """Write a text file whole."""
    write_whole(path, lambda file: file.write(text.encode()))


def write_json(path: Path, content: Any) -> None:
    """Write JSON whole; NaN is refused, since other readers refuse it."""
    write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def write_tensors(path: Path, content: dict[str, Any]) -> None:
    """Write tensors and plain values whole, in the form that `read_tensors` accepts."""
    import torch  # the command line reads JSON before it needs torch

    buffer = io.BytesIO()  # torch.save reports a full disk as a RuntimeError of its own; plain writes as it is
    torch.save(content, buffer)
    write_whole(path, lambda file: file.write(buffer.getbuffer()))


def read_json(path: Path) -> Any:
    """Read JSON; raises UserError naming the file if it is missing or is not JSON."""
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise UserError(f"no such file: {path}") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(f"cannot read {path} as JSON ({error}); it is damaged or something else") from None


def read_tensors(path: Path, device: str = "cpu") -> dict[str, Any]:
    """Read a file of tensors without unpickling anything else.

    Raises:
        UserError: If the file is missing, damaged, or holds more than tensors and plain values.
    """
    import torch

    if not path.is_file():
        raise UserError(f"no such file: {path}")
    try:
        content = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # torch raises a dozen kinds for a damaged archive
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(
            f"cannot read {path} as tensors ({reason[0][:120]}); it is damaged or was not saved as a state dict"
        ) from None
    if not isinstance(content, dict):
        raise UserError(f"{path} holds a {type(content).__name__}; expected a dict of tensors: save model.state_dict()")
    return content
