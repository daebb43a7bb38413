"""Options behind a name, as in `unet:width=16,norm=false`."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from typing import Any

from rlprune.errors import UserError, check_known


def parse_options(what: str, text: str, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Read `key=value,key=value`; every value must be of its default's type.

    Args:
        what: Whose options they are, for messages.
        text: What comes behind the colon.
        defaults: The options there are.

    Raises:
        UserError: Unknown option, or a value that is not of the right type.

    >>> parse_options("unet", "width=16,norm=false", {"width": 64, "norm": True})
    {'width': 16, 'norm': False}
    """
    options: dict[str, Any] = {}
    for part in text.split(","):
        key, equals, value = (piece.strip() for piece in part.partition("="))
        check_known(f"option of {what}", key, defaults)
        options[key] = _value(value, defaults[key])
        if not equals or options[key] is None:
            kind = type(defaults[key]).__name__
            raise UserError(f"option {key} of {what} is {value!r}; it must be a {kind}, like {defaults[key]!r}")
    return options


def _value(text: str, default: Any) -> Any:
    """The text as a value of the default's type, or None."""
    if isinstance(default, str):
        return text or None
    try:
        value = ast.literal_eval(text.capitalize() if text in ("true", "false") else text)
    except (ValueError, SyntaxError):
        return None
    if isinstance(default, float) and type(value) is int:
        value = float(value)
    return value if type(value) is type(default) else None
