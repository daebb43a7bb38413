"""Tables as plain text that fits the terminal: numbers are never cut, names never broken, brackets stay brackets."""

from __future__ import annotations

import textwrap
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

GAP = 2
LISTED = 24  # narrowest column in which a list goes on in the next line


def layout(
    heads: Sequence[str], rows: Sequence[Sequence[str]], width: int = 80, *, left: Collection[str] = (), title: str = ""
) -> str:
    """A table of at most `width` characters, as far as the names in it are not wider themselves.

    Columns that do not fit beside the others go on below, behind the first column once more. In columns that are not
    numbers, lists go on in the next line after a comma.

    Args:
        heads: Headings; the first column is what the rows are about.
        rows: Texts, as many in each as there are headings.
        width: Of the terminal.
        left: Headings of columns that are words, and aligned to the left like the first.
        title: A line above it.

    >>> print(layout(("layer", "before", "after"), [("conv1", "20", "8")], title="filters"))
    filters
    layer  before  after
    -----  ------  -----
    conv1      20      8
    """
    words = {0, *(i for i, head in enumerate(heads) if head in left)}
    whole = [max(len(head), *(len(row[i]) for row in rows), 0) for i, head in enumerate(heads)]
    blocks: list[list[int]] = [[0]]
    for i in range(1, len(heads)):
        used = sum(min(whole[j], LISTED) if j in words and j else whole[j] for j in blocks[-1]) + GAP * len(blocks[-1])
        if len(blocks[-1]) > 1 and used + (min(whole[i], LISTED) if i in words else whole[i]) > width:
            blocks.append([0])
        blocks[-1].append(i)
    parts = [_block([heads[i] for i in block], [[row[i] for i in block] for row in rows], width,
                    {n for n, i in enumerate(block) if i in words}) for block in blocks]  # fmt: skip
    return "\n".join([*([title] if title else []), "\n\n".join(parts)])


def _block(heads: Sequence[str], rows: Sequence[Sequence[str]], width: int, words: set[int]) -> str:
    widths = [max(len(head), *(len(row[i]) for row in rows), 0) for i, head in enumerate(heads)]
    lists = sorted(words - {0}, key=lambda i: widths[i])
    for place, i in enumerate(lists):  # the narrowest take what they need, the others share what is left
        room = width - sum(widths[j] for j in range(len(heads)) if j not in lists[place:]) - GAP * (len(heads) - 1)
        longest = max((len(item) + 1 for row in rows for item in row[i].split()), default=0)
        widths[i] = max(min(widths[i], room // (len(lists) - place)), longest, len(heads[i]))
    lines = []
    for row in [heads, ["-" * size for size in widths], *rows]:
        cells = [
            _folded(text, size) if i in lists else [text]
            for i, (text, size) in enumerate(zip(row, widths, strict=True))
        ]
        for n in range(max(map(len, cells))):
            texts = [cell[n] if n < len(cell) else "" for cell in cells]
            aligned = [
                f"{text:<{size}}" if i in words else f"{text:>{size}}"
                for i, (text, size) in enumerate(zip(texts, widths, strict=True))
            ]
            lines.append((" " * GAP).join(aligned).rstrip())
    return "\n".join(lines)


def _folded(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False) or [""]


def print_table(
    console: Console,
    heads: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    left: Collection[str] = (),
    title: str = "",
) -> None:
    """Print `layout` as it is: no markup, nothing wrapped or cut."""
    say(console, layout(heads, rows, console.width, left=left, title=title))


def say(console: Console, text: str) -> None:
    """Print a text as it is: what is in brackets is a name, not markup, and nothing is wrapped."""
    console.print(text, markup=False, highlight=False, soft_wrap=True, emoji=False)


def count(value: float) -> str:
    """A number of MACs or parameters, short: `1.23 M`."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.2f} {unit}"
    return f"{value:.0f}"
