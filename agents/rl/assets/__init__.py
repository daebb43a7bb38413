"""Trained agents that come with the package: `NAME.zip`, and the card `NAME.json` beside it.

The two files in this folder are all it takes; `python -m rlprune.agents.rl.assets` makes them of a trained agent.
"""

from __future__ import annotations

from pathlib import Path

from rlprune.errors import UserError, unknown_name

FOLDER = Path(__file__).resolve().parent


def names() -> list[str]:
    """Names of the agents that come with the package; the first is the one taken where none is named."""
    return sorted(path.stem for path in FOLDER.glob("*.zip") if path.with_suffix(".json").is_file())


def agent_file(name: str | Path) -> Path:
    """The zip of an agent: a file, or the name of one that comes with the package.

    Raises:
        UserError: If there is neither.
    """
    if not isinstance(name, str | Path):
        raise UserError(f"the agent is {name!r}; it must be the path of a zip, or a name")
    path = Path(name)
    if path.is_file():
        return path
    written = path.with_name(f"{path.name}.zip") if path.name else path
    if written.is_file():  # Stable-Baselines3 writes that where it is told to write `name`
        return written
    if str(name) and path.is_dir() and str(name) not in names():
        inside = sorted(path.glob("*.zip"))
        raise UserError(f"{path} is a folder; " + (f"give {inside[0]}" if inside else "it holds no agent.zip"))
    if path.suffix == ".zip" or len(path.parts) > 1:
        raise UserError(f"no such file: {path}")
    if str(name) in names():
        return FOLDER / f"{name}.zip"
    raise unknown_name("built-in agent", str(name), [*names(), "FILE.zip"])
