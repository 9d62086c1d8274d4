"""A family is one page and a row of the parity table: nothing else, and no forward pass."""

import ast
import re
from pathlib import Path

import pytest

from engine.models.registry import FAMILIES
from tests.architecture.sources import ROOT
from tests.engine.parity.rows import ROWS

PAGES = sorted((ROOT / "engine" / "models" / "families").glob("[!_]*.py"))
MAX_PAGE_LINES = 120
MAX_COPIED_LINES = 6
"""As many lines in a row may two pages have in common: imports, and the frame of FAMILY."""


def test_every_family_has_a_parity_row() -> None:
    proven = {FAMILIES[row.model].architectures for row in ROWS.values()}
    assert {family.architectures for family in FAMILIES.values()} - proven == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_is_short_and_has_no_forward_pass(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    tree = ast.parse(text)
    imported = {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert text.count("\n") <= MAX_PAGE_LINES
    assert not any(isinstance(node, ast.ClassDef) for node in ast.walk(tree))
    assert not any(name.startswith(("torch", "engine.layers", "engine.kernels")) for name in imported)


def test_no_page_repeats_another() -> None:
    seen: dict[tuple[str, ...], str] = {}
    copied = []
    for page in PAGES:
        lines = _code_lines(page.read_text(encoding="utf-8"))
        for start in range(len(lines) - MAX_COPIED_LINES):
            piece = tuple(lines[start : start + MAX_COPIED_LINES + 1])
            if seen.setdefault(piece, page.stem) != page.stem:
                copied.append((seen[piece], page.stem, piece[0]))
    assert copied == []


def test_contributing_shows_a_true_page() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    page, row = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    assert page == (ROOT / "engine" / "models" / "families" / "qwen3.py").read_text(encoding="utf-8")
    assert page.count("\n") < 60
    assert row in (ROOT / "tests" / "engine" / "parity" / "rows" / "gqa.py").read_text(encoding="utf-8")


def _code_lines(text: str) -> list[str]:
    """What a page says: without imports, blank lines, and what is published of a checkpoint."""
    body = re.sub(r"published=Published\(.*?\n    \),\n", "", text, flags=re.DOTALL)
    lines = [line.strip() for line in body.splitlines()]
    return [line for line in lines if line and not line.startswith(("from ", "import "))]
