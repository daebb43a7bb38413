from __future__ import annotations

import pytest

from rlprune.errors import UserError
from rlprune.options import parse_options

DEFAULTS = {"width": 64, "norm": True, "rate": 0.5, "mode": "fast"}


def test_options_take_the_types_of_their_defaults() -> None:
    parsed = parse_options("net", "width=16, norm=false,rate=1,mode=ce+dice", DEFAULTS)
    assert parsed == {"width": 16, "norm": False, "rate": 1.0, "mode": "ce+dice"}
    assert type(parsed["rate"]) is float


@pytest.mark.parametrize(
    "text", ["width=1.5", "width=True", "norm=1", "width", "width=", "mode=", "width=__import__('os')"]
)
def test_values_of_other_types_are_refused(text: str) -> None:
    with pytest.raises(UserError, match="it must be a"):
        parse_options("net", text, DEFAULTS)


def test_unknown_options_suggest_the_closest() -> None:
    with pytest.raises(UserError, match="did you mean 'width'"):
        parse_options("net", "widht=3", DEFAULTS)
    with pytest.raises(UserError, match="known: "):
        parse_options("net", "widht=3", {})
