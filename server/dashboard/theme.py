"""The look of every page, the sign-in page among them: one style sheet, written into the page."""

import functools
from pathlib import Path

FOLDER = Path(__file__).parent


@functools.cache
def style_sheet() -> str:
    """Colours, type and layout, light and dark."""
    return (FOLDER / "static" / "theme.css").read_text(encoding="utf-8")


@functools.cache
def favicon() -> str:
    """Three query heads on one KV head."""
    return (FOLDER / "static" / "favicon.svg").read_text(encoding="utf-8")


@functools.cache
def sign_in_page() -> str:
    """Asks for the key. It needs no NiceGUI, so nothing is held for somebody who has none."""
    page = (FOLDER / "static" / "sign_in.html").read_text(encoding="utf-8")
    return page.replace("/* theme.css */", style_sheet())
