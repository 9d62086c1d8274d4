"""What source code must not hold, and what it must."""

import ast
import re
from collections.abc import Iterator

from configs.base import Settings
from tests.architecture.sources import Function, parsed, source_files, where

FORBIDDEN_IMPORTS = {"pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve"}
FORBIDDEN_CALLS = {"eval", "exec", "__import__", "torch.load", "os.system"}
UNFINISHED = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b")


def test_nothing_is_checked_by_assert() -> None:
    """Assertions vanish under `python -O`; what must hold raises an exception."""
    found = [where(path, node) for path, tree in parsed() for node in ast.walk(tree) if isinstance(node, ast.Assert)]
    assert found == []


def test_nothing_is_left_to_do() -> None:
    found = [where(path) for path in source_files() if UNFINISHED.search(path.read_text(encoding="utf-8"))]
    assert found == []


def test_no_data_can_become_code() -> None:
    found = [f"{where(path, node)} {name}" for path, tree in parsed() for node, name in _dangers(tree)]
    assert found == []


def _dangers(tree: ast.Module) -> Iterator[tuple[ast.AST, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name.split(".")[0] for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [(node.module or "").split(".")[0]]
            names += [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Call):
            names = [ast.unparse(node.func)]
            names += ["trust_remote_code" for keyword in node.keywords if keyword.arg == "trust_remote_code"]
        else:
            continue
        for name in names:
            if name in FORBIDDEN_IMPORTS | FORBIDDEN_CALLS | {"trust_remote_code"}:
                yield node, name


def test_every_file_and_public_name_says_what_it_is() -> None:
    found = [where(path) for path, tree in parsed() if path.stat().st_size and not ast.get_docstring(tree)]
    for path, tree in parsed():
        found += [f"{where(path, node)} {node.name}" for node in _public(tree) if not ast.get_docstring(node)]
    assert found == []


def _public(scope: ast.Module | ast.ClassDef) -> Iterator[ast.ClassDef | Function]:
    """Public classes and functions, and the public methods of public classes."""
    for node in scope.body:
        if isinstance(node, ast.ClassDef | Function) and not node.name.startswith("_"):
            yield node
            if isinstance(node, ast.ClassDef):
                yield from _public(node)


def test_every_setting_is_documented() -> None:
    import configs.compare
    import configs.serve  # noqa: F401  these two define every settings model below them

    found = [
        f"{kind.__name__}.{name}"
        for kind in _below(Settings)
        for name, info in kind.model_fields.items()
        if not info.description
    ]
    assert found == []


def _below(kind: type[Settings]) -> Iterator[type[Settings]]:
    for child in kind.__subclasses__():
        yield child
        yield from _below(child)
