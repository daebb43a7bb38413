"""What is written can be read; what was damaged since is refused."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from rlprune.errors import UserError
from rlprune.files import read_json, read_tensors, write_json, write_tensors
from rlprune.seals import comparable

TABLE = {"plan": {"conv1": [0, 3]}, "drop": 0.01, "rounds": [{"macs": 7, "time": 1.5}], 3: "a", 20: "b"}


def flipped(path: Path, step: int) -> Iterator[int]:
    """Flip every so many bits of a file in turn, one by itself."""
    whole = path.read_bytes()
    for bit in range(0, 8 * len(whole), step):
        content = bytearray(whole)
        content[bit // 8] ^= 1 << bit % 8
        path.write_bytes(content)
        yield bit


def test_a_flipped_bit_of_an_archive_is_found(tmp_path: Path) -> None:
    file = tmp_path / "state.pt"
    write_tensors(file, {"weight": torch.arange(3.0), "round": 4})
    assert torch.load(file, weights_only=True)["round"] == 4, "torch alone reads it too"
    assert read_tensors(file, sealed=True)["round"] == 4
    for bit in flipped(file, 61):
        with pytest.raises(UserError, match="damaged"):
            pytest.fail(f"bit {bit} gave {read_tensors(file, sealed=True)}")


def test_no_flipped_bit_of_a_table_changes_its_content(tmp_path: Path) -> None:
    file, refused = tmp_path / "record.json", 0
    write_json(file, TABLE)
    expected = comparable(read_json(file))
    assert expected == {"plan": {"conv1": [0, 3]}, "drop": 0.01, "rounds": [{"macs": 7}], "3": "a", "20": "b"}
    for bit in flipped(file, 5):
        try:
            content = comparable(read_json(file))
        except UserError:
            refused += 1
        else:  # in the time, in white space, or in the name of the checksum
            assert {name: content.get(name) for name in expected} == expected, bit
    assert refused > 8 * 80 / 5


def test_files_of_others_need_no_checksum_and_state_does(tmp_path: Path) -> None:
    torch.save({"weight": torch.ones(2)}, tmp_path / "plain.pt")
    assert read_tensors(tmp_path / "plain.pt")["weight"].sum() == 2
    with pytest.raises(UserError, match=r"plain\.pt is damaged"):
        read_tensors(tmp_path / "plain.pt", sealed=True)
    (tmp_path / "rates.json").write_text('{"conv*": 0.5}')
    assert read_json(tmp_path / "rates.json") == {"conv*": 0.5}


def test_a_seal_is_a_comment_that_unzip_knows(tmp_path: Path) -> None:
    write_tensors(tmp_path / "state.pt", {"weight": torch.ones(2)})
    with zipfile.ZipFile(tmp_path / "state.pt") as archive:
        assert archive.testzip() is None and archive.comment.startswith(b"rlprune sha256 ")
