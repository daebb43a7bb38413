"""The report: one HTML file that needs no network, no server and no other file."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from rlprune.files import write_text
from rlprune.report.content import to_script

STYLES = ("page.css",)
SCRIPTS = ("drawing.js", "charts.js", "page.js")


def render(content: Mapping[str, Any]) -> str:
    """The page for `rlprune.report.content`'s object.

    Style, script and data are inside it. A content security policy in the page forbids it to load anything, so what
    is in a record (a model's name, an error message) is only ever text.
    """
    page = resources.files("rlprune.report") / "page"
    parts = {
        "title": html.escape(str(content["title"])),
        "style": "\n".join((page / name).read_text() for name in STYLES),
        "script": "\n".join((page / name).read_text() for name in SCRIPTS),
        "data": to_script(content),
    }
    # One pass, so that nothing put in is searched for placeholders itself.
    return re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], (page / "page.html").read_text())


def write_report(content: Mapping[str, Any], path: Path) -> None:
    """Write the page whole."""
    write_text(path, render(content))
