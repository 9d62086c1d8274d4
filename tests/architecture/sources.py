"""The source files that the architecture tests read."""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
ROOMS = ("configs", "kvcache", "checkpoints", "engine", "heads", "server")

Function = ast.FunctionDef | ast.AsyncFunctionDef


def source_files() -> list[Path]:
    """Every Python file of the rooms, and the public face."""
    return [ROOT / "headcount.py", *sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))]


def parsed() -> Iterator[tuple[Path, ast.Module]]:
    """Each source file with its syntax tree."""
    for path in source_files():
        yield path, ast.parse(path.read_text(encoding="utf-8"))


def where(path: Path, node: ast.AST | None = None) -> str:
    """`engine/core.py:12`."""
    line = getattr(node, "lineno", 1)
    return f"{path.relative_to(ROOT)}:{line}"


def functions(tree: ast.Module) -> Iterator[Function]:
    """Every function of a file, nested ones included."""
    for node in ast.walk(tree):
        if isinstance(node, Function):
            yield node
