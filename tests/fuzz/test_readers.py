"""Whatever a file holds that a user may give, reading it works, or is refused in one line that names the file."""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from seeds import BINARIES, TEXTS, Seed, made, plain

from rlprune.errors import Notice, UserError

ODD = [
    None, True, False, 0, -1, 1, 3, 1.5, -0.5, 10**9, 10**30, -(10**30), 1e308, float("nan"), float("inf"), "", "x",
    "0.5", "../..", "a[/red]b", "\x00", "é", "none", [], [1], ["x"], [[]], [None], {}, {"x": 1}, {"": {}}, [0.1] * 50,
]  # fmt: skip
QUIET = {
    "derandomize": True,
    "database": None,
    "deadline": None,
    "suppress_health_check": list(HealthCheck),
}

FEW, MANY = settings(max_examples=20, **QUIET), settings(max_examples=200, **QUIET)  # type: ignore[arg-type]


def places(content: Any) -> Iterator[tuple[Any, Any]]:
    """Every container in a tree, with a key or an index of it."""
    keys: Any = list(content) if isinstance(content, dict) else range(len(content)) if isinstance(content, list) else ()
    for key in keys:
        yield content, key
        yield from places(content[key])


def changed(data: st.DataObject, content: Any) -> Any:
    """One to three entries of a tree are missing, something else, doubled, or of another name."""
    content = copy.deepcopy(content)
    for _ in range(data.draw(st.integers(1, 3))):
        every = list(places(content))
        if not every or data.draw(st.integers(0, 40)) == 0:
            return data.draw(st.sampled_from(ODD))
        where, key = data.draw(st.sampled_from(every))
        what = data.draw(st.sampled_from(["odd", "odd", "odd", "gone", "renamed", "swapped"]))
        if what == "odd":
            where[key] = copy.deepcopy(data.draw(st.sampled_from(ODD)))
        elif what == "swapped":
            other, name = data.draw(st.sampled_from(every))
            where[key] = copy.deepcopy(other[name])
        else:
            value = where.pop(key)
            if what == "renamed" and isinstance(where, dict):
                where[f"{key}x"] = value
    return content


def damaged(data: st.DataObject, content: bytes) -> bytes:
    """A file that was cut short, or of which some bytes are others."""
    if data.draw(st.booleans()):
        return content[: data.draw(st.integers(0, len(content)))]
    found = bytearray(content)
    for _ in range(data.draw(st.integers(1, 8))):
        found[data.draw(st.integers(0, len(found) - 1))] = data.draw(st.integers(0, 255))
    return bytes(found)


def check(seed: Seed, folder: Path) -> None:
    """It works, or says in a line which file does not."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Notice)
            seed.read(folder)
    except UserError as error:
        assert "\n" not in str(error), str(error)
        assert str(folder) in str(error) or seed.file.endswith("yml"), str(error)


@pytest.fixture(scope="module", params=TEXTS)
def text(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Seed, Path]:
    return (seed := TEXTS[request.param]), made(seed, tmp_path_factory.mktemp("text") / "here")


@pytest.fixture(scope="module", params=BINARIES)
def binary(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Seed, Path]:
    return (seed := BINARIES[request.param]), made(seed, tmp_path_factory.mktemp("binary") / "here")


def check_texts(data: st.DataObject, text: tuple[Seed, Path]) -> None:
    seed, folder = text
    file = folder / seed.file
    whole = file.read_text()
    try:
        plain(file, changed(data, json.loads(whole) if file.suffix == ".json" else yaml.safe_load(whole)))
        check(seed, folder)
    finally:
        file.write_text(whole)


def check_binaries(data: st.DataObject, binary: tuple[Seed, Path]) -> None:
    seed, folder = binary
    file = folder / seed.file
    whole = file.read_bytes()
    try:
        file.write_bytes(damaged(data, whole))
        check(seed, folder)
    finally:
        for beside in folder.glob("scores.sqlite-*"):
            beside.unlink()
        file.write_bytes(whole)


def test_seeds_are_read(text: tuple[Seed, Path]) -> None:
    try:
        text[0].read(text[1])
    except UserError as error:
        assert "not a training" in str(error)  # a record is of one kind


@FEW
@given(st.data())
def test_changed_texts(text: tuple[Seed, Path], data: st.DataObject) -> None:
    check_texts(data, text)


@FEW
@given(st.data())
def test_damaged_files(binary: tuple[Seed, Path], data: st.DataObject) -> None:
    check_binaries(data, binary)


@pytest.mark.slow
@MANY
@given(st.data())
def test_many_changed_texts(text: tuple[Seed, Path], data: st.DataObject) -> None:
    check_texts(data, text)


@pytest.mark.slow
@MANY
@given(st.data())
def test_many_damaged_files(binary: tuple[Seed, Path], data: st.DataObject) -> None:
    check_binaries(data, binary)
