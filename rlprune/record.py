"""The run folder: what was asked, what was done, and what came of it."""

from __future__ import annotations

import contextlib
import json
import platform
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

from rlprune.errors import UserError
from rlprune.files import read_json, read_tensors, write_json, write_tensors, write_text
from rlprune.typed import checked

BEGUN: dict[str, Any] = {"status": str, "settings": dict[str, Any]}
"""What a record holds from the beginning on, of whatever kind of run."""

FINISHED: dict[str, Any] = BEGUN | {
    "plan": dict[str, list[int]], "sha256": str, "tolerance": float, "drop": float, "model": str, "seed": int,
    "data": dict[str, Any], "baseline": dict[str, Any], "pruned": dict[str, Any], "rounds": list[dict[str, Any]],
}  # fmt: skip
"""What the record of a pruning holds that is finished."""


class RunFolder:
    """The files of one run.

    `record.json` says everything about the run; `metrics.jsonl` has a line for each round; `model.pt` is the pruned
    network; `checkpoint.pt` lets a killed run go on and is gone once the run is finished.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    @property
    def record_file(self) -> Path:
        """The record."""
        return self.path / "record.json"

    @property
    def model_file(self) -> Path:
        """The pruned network."""
        return self.path / "model.pt"

    @property
    def checkpoint_file(self) -> Path:
        """State from which an unfinished run goes on."""
        return self.path / "checkpoint.pt"

    def clear_remains(self) -> None:
        """Remove the half-written files of a process that was killed."""
        for remains in self.path.glob(".*.part"):
            remains.unlink(missing_ok=True)

    def exists(self) -> bool:
        """Whether a run was started here."""
        return self.record_file.exists()

    def read(self) -> dict[str, Any]:
        """The record; raises UserError if there is none or it is damaged."""
        if not self.record_file.exists():
            raise UserError(f"no run in {self.path}: it has no record.json; `rlprune prune` writes one")
        record = read_json(self.record_file)
        if not isinstance(record, dict) or "status" not in record:
            raise UserError(f"{self.record_file} is not a record of a run: it has no 'status'")
        kinds = FINISHED if record["status"] == "finished" and "plan" in record else BEGUN
        for name, kind in kinds.items():
            checked(kind, record.get(name), f"{self.record_file}: {name}")
        return record

    def write(self, record: dict[str, Any]) -> None:
        """Write the record, and `metrics.jsonl` with one line for each of its rounds."""
        lines = "".join(json.dumps(line, allow_nan=False) + "\n" for line in record.get("rounds", []))
        write_text(self.path / "metrics.jsonl", lines)
        write_text(self.path / "command.txt", record["command"] + "\n")
        write_json(self.record_file, record)

    def save_checkpoint(self, state: dict[str, Any]) -> None:
        """Write the state from which `load_checkpoint` goes on."""
        write_tensors(self.checkpoint_file, state)

    def load_checkpoint(self, device: str = "cpu") -> dict[str, Any] | None:
        """The last state saved, or None if the run had not got that far."""
        return read_tensors(self.checkpoint_file, device, sealed=True) if self.checkpoint_file.exists() else None

    def clear_state(self) -> None:
        """Remove what only a run that is not finished needs: the checkpoint, and the state of its trainings."""
        for file in [self.checkpoint_file, *self.path.glob("cycle-*.pt"), *self.path.glob("finish-*.pt")]:
            file.unlink(missing_ok=True)


def subject(model: str, data: str) -> tuple[str, str]:
    """Network and data in a word each, for names of folders: of paths the stem, of `module:function` the function."""
    return Path(model.partition(":")[2] or model).stem, Path(data).stem


def run_name(*words: str) -> str:
    """What a run folder is called."""
    return "-".join(words).replace(":", "-")


def free_folder(parent: str | Path, name: str) -> Path:
    """`parent/name`, or the first of `parent/name-2`, `-3` ... that does not exist."""
    path, number = Path(parent) / name, 1
    while path.exists():
        number += 1
        path = Path(parent) / f"{name}-{number}"
    return path


def newest_unfinished(parent: Path, name: str = "record.json") -> Path | None:
    """The folder in `parent` whose record was written to last and is unfinished, or None; damaged ones do not count."""
    records = sorted(parent.glob(f"*/{name}"), key=lambda path: path.stat().st_mtime, reverse=True)
    return next((path.parent for path in records if _goes_on(path)), None)


def _goes_on(path: Path) -> bool:
    with contextlib.suppress(UserError):
        content = read_json(path)
        return isinstance(content, dict) and content.get("status") != "finished"
    return False


def versions(
    packages: Iterable[str] = ("rlprune", "torch", "torchvision", "numpy", "gymnasium", "stable-baselines3"),
) -> dict[str, str]:
    """Versions of what a run depends on."""
    found = {"python": platform.python_version()}
    for name in packages:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
