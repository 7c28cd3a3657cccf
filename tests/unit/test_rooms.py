"""Rooms of the package: a module imports from its own room and from those below it, never from a higher one."""

import ast
from collections.abc import Iterator
from pathlib import Path

import vtlm_fairseq

PACKAGE = Path(vtlm_fairseq.__file__).parent
ROOMS = (
    {"version", "errors"},
    {"stack", "interrupts", "terminal", "files", "ranges", "registry", "user_dir"},
    {"text", "regions", "options"},
    {"checkpoint_guard", "checkpoints", "loading", "compatibility", "precision", "health", "data", "objectives"},
    {"models", "criterions", "optim"},
    {"tasks"},
    {"interop", "inference", "hub"},
    {"corpora", "extract"},
    {"evaluation"},
    {"cli"},
)
"""From the lowest to the highest; rooms of one set may import from each other."""


def imports() -> Iterator[tuple[str, int, str, str]]:
    """Module, line, its room and the room of a module of the package that it imports, wherever the import stands."""
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        if len(parts) == 1 and parts[0].startswith("__"):
            continue  # the package itself and its __main__ are doors, not rooms
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module:
                names = [node.module if "." in node.module else f"{node.module}.{alias.name}" for alias in node.names]
            for name in names:
                if name.startswith("vtlm_fairseq."):
                    yield "/".join(parts), node.lineno, parts[0], name.split(".")[1]


def test_every_module_has_a_room():
    top = {path.stem for path in PACKAGE.glob("*.py")} | {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    placed = [room for rooms in ROOMS for room in rooms]
    assert len(placed) == len(set(placed))
    assert {name for name in top if not name.startswith("_")} - set(placed) == set()


def test_no_room_imports_from_a_higher_one():
    height = {room: k for k, rooms in enumerate(ROOMS) for room in rooms}
    found = list(imports())
    upwards = [
        f"{module}:{line} imports {theirs}"
        for module, line, ours, theirs in found
        if theirs in height and height[theirs] > height[ours]
    ]
    assert upwards == []
    assert len(found) > 300  # the scan sees them
