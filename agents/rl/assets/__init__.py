"""Trained agents that come with the package: `NAME.zip`, and the card `NAME.json` beside it.

The two files in this folder are all it takes; `prepare` makes them of a trained agent.
"""

from __future__ import annotations

import re
import zipfile
from pathlib import Path
from typing import Any

from rlprune.errors import UserError, unknown_name
from rlprune.files import read_json, write_json, write_whole

FOLDER = Path(__file__).resolve().parent
_FOLDERS = re.compile(r"""(?<![^\s=,:'"])/(?:[^\s/=,:'"]+/)*""")  # of an absolute path, up to the file's name


def names() -> list[str]:
    """Names of the agents that come with the package; the first is the one taken where none is named."""
    return sorted(path.stem for path in FOLDER.glob("*.zip") if path.with_suffix(".json").is_file())


def agent_file(name: str | Path) -> Path:
    """The zip of an agent: a file, or the name of one that comes with the package.

    Raises:
        UserError: If there is neither.
    """
    path = Path(name)
    if path.is_file():
        return path
    if path.suffix == ".zip" or len(path.parts) > 1:
        raise UserError(f"no such file: {path}")
    if str(name) in names():
        return FOLDER / f"{name}.zip"
    raise unknown_name("built-in agent", str(name), [*names(), "FILE.zip"])


def prepare(source: str | Path, name: str, folder: Path = FOLDER) -> Path:
    """Copy a trained agent so that it can come with the package; returns its zip.

    The zip keeps the tensors alone, and of absolute paths in the card only the file's name stays.

    Args:
        source: Its zip, with the card beside it.
        name: What it is to be called.
        folder: Where to put it.

    Raises:
        UserError: If the agent cannot be loaded.
    """
    from rlprune.agents.rl.sb3 import load_agent

    path, target = agent_file(source), folder / f"{name}.zip"
    load_agent(path)

    def write(file: Any) -> None:
        with zipfile.ZipFile(path) as old, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as new:
            for entry in sorted(old.namelist()):
                if entry.endswith(".pth") or entry == "_stable_baselines3_version":
                    new.writestr(zipfile.ZipInfo(entry), old.read(entry), zipfile.ZIP_DEFLATED)

    write_whole(target, write)
    write_json(target.with_suffix(".json"), without_folders(read_json(path.with_suffix(".json"))))
    return target


def without_folders(content: Any) -> Any:
    """Plain values with absolute paths cut down to the file's name.

    >>> without_folders({"a": ["--models resnet20=/data/w/r20.pt", "rlprune/MixedPruning-v0"]})
    {'a': ['--models resnet20=r20.pt', 'rlprune/MixedPruning-v0']}
    """
    if isinstance(content, dict):
        return {key: without_folders(value) for key, value in content.items()}
    if isinstance(content, list):
        return [without_folders(value) for value in content]
    return _FOLDERS.sub("", content) if isinstance(content, str) else content
