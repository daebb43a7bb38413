"""A run folder has one writer; a lock ends with its process, however that ends."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from rlprune.cli import main
from rlprune.errors import UserError
from rlprune.locking import KINDS, locked

HOLD = "import sys; from pathlib import Path; from rlprune.locking import locked\n"
HOLD += "with locked(Path(sys.argv[1]), 'record.json'): print('held', flush=True); sys.stdin.read()"


@contextmanager
def holder(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that has the folder."""
    command = [sys.executable, "-c", HOLD, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_second_process_is_refused_by_name_and_a_killed_one_locks_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    with holder(folder) as process:
        with (
            pytest.raises(UserError, match=f"in use by process {process.pid} on .* since"),
            locked(folder, "record.json"),
        ):
            pytest.fail("two have it")
        quick = ["--out", str(folder), "--quiet", "--control-size", "60", "--calibration-size", "40"]
        for command in (["prune", "--epochs", "0"], ["compare"]):
            options = quick if command[0] != "compare" else [*quick, "--seeds", "0"]
            assert main([*command, *options]) == 2
            (line,) = capsys.readouterr().err.strip().splitlines()
            assert f"process {process.pid}" in line and "--out" in line
    assert (folder / ".lock").exists(), "it was killed, and could not take it away"
    with locked(folder, "record.json"):
        pass
    assert not (folder / ".lock").exists()


def test_nothing_is_left_where_nothing_was_written(tmp_path: Path) -> None:
    with locked(tmp_path / "a" / "b", "record.json"):
        pass
    assert not (tmp_path / "a" / "b").exists()
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write"), locked(tmp_path / "file", "record.json"):
        pytest.fail("that is a file")


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_is_of_one_kind_of_run(tmp_path: Path, kind: str) -> None:
    (tmp_path / kind).touch()
    for other in KINDS:
        refused = pytest.raises(UserError, match=f"a run of another kind .{kind}.")
        with refused if other != kind else contextlib.nullcontext(), locked(tmp_path, other):
            pass
