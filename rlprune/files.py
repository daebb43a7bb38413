"""Files that appear whole or not at all."""

from __future__ import annotations

import io
import json
import math
import os
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from rlprune.errors import UserError, first_line
from rlprune.seals import check_seal, with_checksum, without_checksum, write_sealed


def cache_folder() -> Path:
    """$RLPRUNE_CACHE, or ~/.cache/rlprune."""
    return Path(os.environ.get("RLPRUNE_CACHE", "") or Path.home() / ".cache" / "rlprune")


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


def write_bytes(path: Path, content: bytes | memoryview) -> None:
    """Write a file whole."""
    write_whole(path, lambda file: file.write(content))


def write_text(path: Path, text: str) -> None:
    """Write a text file whole."""
    write_bytes(path, text.encode())


def write_json(path: Path, content: Any) -> None:
    """Write JSON whole, a table with its checksum; NaN is refused, since other readers refuse it."""
    write_text(path, json.dumps(with_checksum(content), indent=2) + "\n")


def write_archive(path: Path, archive: io.BytesIO) -> None:
    """Write a zip archive whole, with its checksum."""
    write_whole(path, lambda file: write_sealed(archive.getbuffer(), file))


def write_tensors(path: Path, content: dict[str, Any]) -> None:
    """Write tensors and plain values whole, with their checksum, in the form that `read_tensors` accepts."""
    import torch  # the command line reads JSON before it needs torch

    buffer = io.BytesIO()  # torch.save reports a full disk as a RuntimeError of its own; plain writes as it is
    torch.save(content, buffer)
    write_archive(path, buffer)


def read_json(path: Path, *, finite: bool = True) -> Any:
    """Read JSON.

    Args:
        path: The file.
        finite: Refuse NaN and infinity, which JSON does not have and Python reads.

    Raises:
        UserError: If it is missing, is not JSON, or does not match its checksum; names the file.
    """
    number = _finite if finite else float
    try:
        content = json.loads(path.read_text(encoding="utf-8"), parse_constant=number, parse_float=number)
    except FileNotFoundError:
        raise UserError(f"no such file: {path}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"cannot read {path} as JSON ({error}); it is damaged or something else") from None
    return without_checksum(path, content)


def read_yaml(path: Any, what: str) -> Any:
    """Read YAML, from a path or a package's own file; raises UserError that says what it was to be, and where."""
    import yaml

    try:
        return yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {what} {path}: {getattr(error, 'strerror', None) or error}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UserError(f"{what} {path} is not YAML: {first_line(error)}") from None


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:20]} is no finite number")
    return value


def check_archive(path: Path, *, sealed: bool = False) -> None:
    """Raise UserError if a file is missing or does not match its checksum; state must be `sealed`: have one."""
    if not path.is_file():
        raise UserError(f"no such file: {path}")
    try:
        check_seal(path, needed=sealed)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from None


def read_tensors(path: Path, device: str = "cpu", *, sealed: bool = False) -> dict[str, Any]:
    """Read a file of tensors without unpickling anything else.

    Args:
        path: The file.
        device: Where its tensors go.
        sealed: It is state, which must have a checksum; any other file may.

    Raises:
        UserError: If the file is missing, damaged, or holds more than tensors and plain values.
    """
    import torch

    check_archive(path, sealed=sealed)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about tensors of odd kinds
            content = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # torch raises a dozen kinds for a damaged archive
        reason = first_line(error, 120)
        if "eights only load failed" in reason:  # of which the rest is advice on how to run code from it
            reason = "its content is another"
        raise UserError(
            f"cannot read {path} as tensors ({reason}); it is damaged or was not saved as a state dict"
        ) from None
    if not isinstance(content, dict):
        raise UserError(f"{path} holds a {type(content).__name__}; expected a dict of tensors: save model.state_dict()")
    return content
