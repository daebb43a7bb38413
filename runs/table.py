"""python runs/table.py runs/*/record.json: finished prunings as a Markdown table, seeds together, mean ± deviation."""

from __future__ import annotations

import json
import re
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def rows(paths: Sequence[Path]) -> dict[str, list[dict[str, Any]]]:
    """The finished prunings by run name without its seed."""
    found: dict[str, list[dict[str, Any]]] = {}
    for path in sorted(paths):
        record = json.loads(path.read_text())
        if record["status"] == "finished" and "pruned" in record:
            found.setdefault(re.sub(r"-s\d+$", "", path.parent.name), []).append(record)
    return found


def percent(values: Sequence[float]) -> str:
    """Mean and standard deviation, in percent."""
    mean = f"{round(100 * statistics.mean(values), 2) + 0.0:.2f}"  # plus 0.0: no minus zero
    return f"{mean} ± {100 * statistics.stdev(values):.2f}" if len(values) > 1 else mean


def table(paths: Sequence[Path]) -> str:
    """The table as Markdown."""
    lines = ["| run | seeds | base | pruned | drop | MACs | parameters |", "|---|---|---|---|---|---|---|"]
    for name, records in rows(paths).items():
        base, pruned = ([record[side] for record in records] for side in ("baseline", "pruned"))
        before, after = ([side["test_score"] for side in sides] for sides in (base, pruned))
        drops = [b - a for b, a in zip(before, after, strict=True)]
        shares = [
            statistics.mean(b[key] / a[key] for b, a in zip(base, pruned, strict=True))
            for key in ("macs", "parameters")
        ]
        lines.append(
            f"| {name} | {len(records)} | {percent(before)} | {percent(after)} | {percent(drops)} | "
            f"{shares[0]:.2f}× fewer | {shares[1]:.2f}× fewer |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    print(table([Path(argument) for argument in sys.argv[1:]]))
