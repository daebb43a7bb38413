"""The commands that look: with any file changed they give status 0, or 2 and one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from seeds import BINARIES, TEXTS, Seed, made, plain
from test_readers import QUIET, changed, damaged

from rlprune.cli import main

TEXT, NETWORK = TEXTS["record"], BINARIES["pruned network"]
LOOKS = {
    "report": (TEXT, ["report", "{}", "--figures", "png"]),
    "pareto": (TEXT, ["pareto", "{}", "--all"]),
    "export": (TEXT, ["pareto", "{}", "--export", "here", "--out", "{}/small.pt"]),
    "replay": (TEXT, ["replay", "{}"]),
    "replay network": (NETWORK, ["replay", "{}"]),
    "evaluate": (BINARIES["weights"], ["evaluate", "--weights", "{}/w.pt"]),
    "inspect": (BINARIES["agent"], ["inspect", "--weights", "{}/agent.zip"]),
    "comparison": (TEXTS["comparison"], ["report", "{}"]),
}
FEW, MANY = settings(max_examples=1, **QUIET), settings(max_examples=40, **QUIET)  # type: ignore[arg-type]


@pytest.fixture(scope="module", params=LOOKS)
def look(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Seed, Path, list[str]]:
    seed, argv = LOOKS[request.param]
    folder = made(seed, tmp_path_factory.mktemp("look") / "here")
    return seed, folder, [word.format(folder) for word in argv]


def check(data: st.DataObject, look: tuple[Seed, Path, list[str]], capsys: pytest.CaptureFixture[str]) -> None:
    seed, folder, argv = look
    file = folder / seed.file
    whole = file.read_bytes()
    try:
        if seed in TEXTS.values():
            plain(file, changed(data, json.loads(whole)))
        else:
            file.write_bytes(damaged(data, whole))
        capsys.readouterr()
        status = main(argv)
        lines = capsys.readouterr().err.strip().splitlines()
        assert status in (0, 2) and all(line.startswith("rlprune ") for line in lines), lines
        assert status == 0 or lines
    finally:
        file.write_bytes(whole)


@FEW
@given(st.data())
def test_a_look(look: tuple[Seed, Path, list[str]], capsys: pytest.CaptureFixture[str], data: st.DataObject) -> None:
    check(data, look, capsys)


@pytest.mark.slow
@MANY
@given(st.data())
def test_many_looks(
    look: tuple[Seed, Path, list[str]], capsys: pytest.CaptureFixture[str], data: st.DataObject
) -> None:
    check(data, look, capsys)
