"""What the README counts."""

from engine.models.registry import PAGES
from tests.architecture.sources import ROOT


def test_the_readme_knows_how_many_families_there_are() -> None:
    assert f"\n{len(PAGES)} families run" in (ROOT / "README.md").read_text(encoding="utf-8")
