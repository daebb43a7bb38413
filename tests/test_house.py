"""The house: nobody imports in a circle or upwards, and no room is so long that it must be searched."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LAYERS = (
    {"rlprune.agents.commands"},
    {"rlprune.agents.compare"},
    {"rlprune.agents.runs"},
    {"rlprune.agents.rl", "rlprune.agents.controllers"},
    {"rlprune.envs"},
    {"rlprune"},
)
LONGEST_MODULE, LONGEST_FUNCTION = 350, 60


def modules() -> dict[str, Path]:
    """Every module of the project by name; the symlinks in `rlprune/` are left out."""
    found = {}
    for folder, package in (("rlprune", "rlprune"), ("envs", "rlprune.envs"), ("agents", "rlprune.agents")):
        for path in (ROOT / folder).rglob("*.py"):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            if folder != "rlprune" or parts[0] not in ("envs", "agents"):
                found[".".join([package, *(part for part in parts if part != "__init__")])] = path
    return found


MODULES = modules()


def imports(name: str) -> Iterator[str]:
    """The modules of the project that a module imports anywhere, in function bodies and for type checkers too."""
    for node in ast.walk(ast.parse(MODULES[name].read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in MODULES)
        elif isinstance(node, ast.ImportFrom) and node.module is not None and not node.level:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                if inner in MODULES or node.module in MODULES:
                    yield inner if inner in MODULES else node.module


GRAPH = {name: sorted(set(imports(name)) - {name}) for name in MODULES}


def layer(name: str) -> int:
    """Its place from the top; the front doors, which look up lazily and by name, are above all."""
    if name in ("rlprune", "rlprune.cli", "rlprune.agents"):
        return -1
    matching = [
        (len(package), place)
        for place, packages in enumerate(LAYERS)
        for package in packages
        if name == package or name.startswith(package + ".")
    ]
    return max(matching)[1]


def test_no_circles() -> None:
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " -> ".join([*path[path.index(name) :], name])
        if name not in done:
            for other in GRAPH[name]:
                visit(other, (*path, name))
            done.add(name)

    for name in GRAPH:
        visit(name, ())


def test_no_arrow_points_upwards() -> None:
    upwards = [(name, other) for name, others in GRAPH.items() for other in others if layer(other) < layer(name)]
    assert [arrow for arrow in upwards if arrow[1] != "rlprune"] == []


def test_rules_and_agents_do_not_know_each_other() -> None:
    sides = ("rlprune.agents.controllers", "rlprune.agents.rl")
    assert [
        (n, o) for n, others in GRAPH.items() for o in others if n.startswith(sides[0]) and o.startswith(sides[1])
    ] == []


@pytest.mark.parametrize("name", sorted(MODULES))
def test_no_room_is_too_long(name: str) -> None:
    text = MODULES[name].read_text()
    assert len(text.splitlines()) <= LONGEST_MODULE
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            body = node.body[1:] if ast.get_docstring(node) else node.body  # how it is to be used takes no room
            length = (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0
            assert length <= LONGEST_FUNCTION, node.name
