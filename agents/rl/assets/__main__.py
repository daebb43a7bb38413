"""`python -m rlprune.agents.rl.assets AGENT.zip NAME`: make a trained agent one that comes with the package."""

from __future__ import annotations

import re
import sys
import zipfile
from pathlib import Path
from typing import Any

from rlprune.agents.rl.assets import FOLDER, agent_file
from rlprune.agents.rl.sb3 import load_agent
from rlprune.errors import UserError
from rlprune.files import read_json, write_json, write_whole

_FOLDERS = re.compile(r"""(?<![^\s=,:'"])/(?:[^\s/=,:'"]+/)*""")  # of an absolute path, up to the file's name


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


def main(arguments: list[str]) -> int:
    """Prepare the files and print where they are."""
    if len(arguments) != 2:
        print("usage: python -m rlprune.agents.rl.assets AGENT.zip NAME", file=sys.stderr)
        return 2
    try:
        print(prepare(arguments[0], arguments[1]))
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
