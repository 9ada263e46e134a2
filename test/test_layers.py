"""The layers of the package, and what keeps them apart: arrows point downwards, and none of them back.

An import counts wherever it stands: at the top, in a function, or for type checking alone.
"""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "dynofa_ros"
GROUND_FLOOR = (
    "cdr",
    "convert",
    "entry_point",
    "errors",
    "files",
    "latency",
    "messages",
    "paths",
    "plots",
    "topics",
)
# Lowest first. A room imports from its own and from lower layers; rooms of one layer do not know each other.
LAYERS = (
    GROUND_FLOOR,
    ("supernet", "device", "datasets"),
    ("library", "training"),
    ("application",),
    ("manager",),
    ("simulation", "recording"),
    ("evaluation",),
    ("ros",),
    ("nodes",),
    ("bench", "demo"),
    ("cli", ""),  # "" = the package itself, of which others import the public names
)
LEVEL = {room: level for level, rooms in enumerate(LAYERS) for room in rooms}
# The only modules outside the ground floor that a room may import.
NARROW = {
    "device": (),
    "manager": ("device.power_model",),
    "supernet": (),
}
# Rooms that may import a package; every other room must do without it.
ROOMS_WITH = {
    "rclpy": ("demo", "nodes", "ros"),
    "torch": ("bench", "library", "supernet", "training"),
}
# Imports against the rules that stay, with the reason of each: (importing module, imported module).
ALLOWED = {
    ("manager.runtime_manager", "gc"): "garbage is collected after a step, not in the middle of it",
    ("manager.runtime_manager", "time"): "compute_ms, which decides nothing",
    ("manager.snapshot", "json"): "the text of a snapshot, which no file holds",
    ("manager.snapshot", "zlib"): "the same, compressed",
    ("manager.snapshot", "base64"): "the same, as a string of a message",
}


def module_name(path: Path) -> str:
    """Dotted name below the package, e.g. "manager.plan"; of a package itself "manager"."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def room(module: str) -> str:
    return module.split(".")[0]


@functools.cache
def imports(module: str) -> frozenset[str]:
    """Modules of this package by name below it, others by their first name."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: line {node.lineno}: a relative import"
            base = node.module or ""
            for alias in node.names:
                full = f"{base}.{alias.name}"
                names.add(full if full.removeprefix("dynofa_ros.") in MODULES else base)
    own = {name.removeprefix("dynofa_ros.") for name in names if name.startswith("dynofa_ros.")}
    others = {name.split(".")[0] for name in names}
    return frozenset({name for name in own if room(name) != "msg"} | others - {"dynofa_ros"})


def arrows() -> Iterator[tuple[str, str]]:
    """(importing, imported) modules of this package."""
    return ((m, i) for m in MODULES for i in sorted(imports(m)) if i in MODULES)


def against_the_layers(module: str, imported: str) -> bool:
    own, other = room(module), room(imported)
    if own == other or not other:
        return False
    if own in GROUND_FLOOR and other in GROUND_FLOOR:
        return False
    if LEVEL[other] >= LEVEL[own]:
        return True
    return own in NARROW and other not in GROUND_FLOOR and imported not in NARROW[own]


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Groups of nodes that reach each other (strongly connected components by Tarjan), larger than one."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for following in graph.get(node, ()):
            if following not in index:
                visit(following)
                low[node] = min(low[node], low[following])
            elif following in stack:
                low[node] = min(low[node], index[following])
        if low[node] == index[node]:
            group = stack[stack.index(node) :]
            del stack[-len(group) :]
            if len(group) > 1:
                found.append(sorted(group))

    for node in graph:
        if node not in index:
            visit(node)
    return sorted(found)


def test_every_room_has_its_layer() -> None:
    assert {room(module) for module in MODULES if module} <= LEVEL.keys()


def test_arrows_point_downwards() -> None:
    found = {arrow for arrow in arrows() if against_the_layers(*arrow)}
    assert found - ALLOWED.keys() == set()


def test_no_module_imports_itself_in_a_circle() -> None:
    graph: dict[str, set[str]] = {}
    for module, imported in arrows():
        graph.setdefault(module, set()).add(imported)
    assert circles(graph) == []


def test_no_room_imports_itself_in_a_circle() -> None:
    graph: dict[str, set[str]] = {}
    for module, imported in arrows():
        if room(module) != room(imported) and (module, imported) not in ALLOWED:
            graph.setdefault(room(module), set()).add(room(imported))
    assert circles(graph) == []


def test_circles_are_found() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a"}}) == [["b", "c"]]


def test_the_manager_only_computes() -> None:
    """It decides on its arguments alone: no file, no clock, no process, no random number of its own."""
    pure = {"__future__", "bisect", "collections", "dataclasses", "enum", "functools", "heapq", "itertools"}
    pure |= {"contextlib", "math", "numpy", "operator", "statistics", "types", "typing"}
    for module in (m for m in MODULES if room(m) == "manager"):
        others = imports(module) - MODULES.keys() - pure
        assert {name for name in others if (module, name) not in ALLOWED} == set(), module
        calls = [n.func for n in ast.walk(ast.parse(MODULES[module].read_text())) if isinstance(n, ast.Call)]
        assert "open" not in {call.id for call in calls if isinstance(call, ast.Name)}, module


@pytest.mark.parametrize("package", ROOMS_WITH)
def test_only_these_rooms_import(package: str) -> None:
    users = {module for module in MODULES if package in imports(module)}
    assert {m for m in users if room(m) not in ROOMS_WITH[package]} == set()
