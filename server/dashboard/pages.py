"""The pages: what stands on each."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from fastapi import FastAPI
from nicegui import ui

from server.dashboard import elements
from server.dashboard.paths import FAVICON, PAGES
from server.dashboard.theme import style_sheet


def build_pages() -> FastAPI:
    """The application behind the dashboard's paths. Its lifespan has to run before the first request."""
    shell = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    for path, show in CONTENT.items():
        _add_page(path, show)
    # No storage: NiceGUI keeps nothing of a visitor, so it needs no secret. No Tailwind: it compiles styles in the page.
    ui.run_with(
        shell,
        title="headcount",
        favicon=FAVICON,
        dark=None,
        tailwind=False,
        show_welcome_message=False,
        language="en-US",
    )
    return shell


def _add_page(path: str, show: Callable[[], None]) -> None:
    @ui.page(path, title=f"{PAGES[path]} · headcount")
    def page() -> None:
        with _frame(path):
            show()


@contextmanager
def _frame(path: str) -> Iterator[None]:
    """What all pages share: the style sheet, the bar at the top, a column for the content."""
    ui.add_head_html(f"<style>{style_sheet()}</style>")
    elements.TopBar(PAGES, path)
    with ui.element("main").classes("page"):
        yield


def _overview() -> None:
    elements.LiveStats()
    elements.ModelCards()
    elements.LiveCharts()


def _heads_cost() -> None:
    _title(
        "What heads cost",
        "Keys and values of every token stay in memory. How many heads hold them decides how many fit.",
    )
    elements.Variants()
    elements.Planner()
    elements.Comparison()


def _playground() -> None:
    elements.Playground()


def _heads() -> None:
    _title("Heads", "What every head of a served model looks at while it reads a sentence.")
    elements.AttentionHeads()
    elements.HeadInspection()


def _blocks() -> None:
    _title("Blocks", "Every block of the KV cache: who owns it, what is shared, how far it is filled.")
    elements.BlockMap()


def _title(title: str, text: str) -> None:
    with ui.element("header").classes("page-title"):
        with ui.element("h1"):
            ui.html(title, tag="span", sanitize=False)
        with ui.element("p"):
            ui.html(text, tag="span", sanitize=False)


CONTENT: dict[str, Callable[[], None]] = {
    "/": _overview,
    "/heads-cost": _heads_cost,
    "/playground": _playground,
    "/heads": _heads,
    "/blocks": _blocks,
}
