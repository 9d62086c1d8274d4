"""The parts that pages are made of: Vue components that read the API from the browser.

The modules they share are `headcount/…` to them; ECharts comes from NiceGUI's own copy, so nothing is fetched elsewhere.
"""

from nicegui.element import Element
from nicegui.elements import echart

SHARED = {"headcount": "static"}
ECHARTS = echart.__name__
"""Importing it has put ECharts on the pages' import map."""


class TopBar(Element, component="components/topBar.js", esm=SHARED):
    """Navigation, the models' state, the switch between dark and light.

    Args:
        pages: path -> title.
        current: path of the page that is open.
    """

    def __init__(self, pages: dict[str, str], current: str) -> None:
        super().__init__()
        self._props["pages"] = [{"path": path, "title": title} for path, title in pages.items()]
        self._props["current"] = current


class LiveStats(Element, component="components/liveStats.js"):
    """Rates, latencies, queue and use of the cache, in figures."""


class ModelCards(Element, component="components/modelCards.js"):
    """Every served model: its heads as a picture, what a token costs, the memory ledger."""


class LiveCharts(Element, component="components/liveCharts.js"):
    """The same figures over the last five minutes."""


class Variants(Element, component="components/variantBars.js"):
    """What each served model costs, and would cost with other numbers of KV heads."""


class Planner(Element, component="components/kvPlanner.js"):
    """Memory against context length, with the budget; sliders for context, batch and number format."""


class Comparison(Element, component="components/comparison.js"):
    """Starts a comparison, shows how it goes, and what it measured beside what was planned."""


class Playground(Element, component="components/playground.js"):
    """Chat and completion, with every sampling field, on one model or on several side by side."""


class AttentionHeads(Element, component="components/attentionHeads.js"):
    """What every head of a served model looks at, in a sentence."""


class HeadInspection(Element, component="components/headInspection.js"):
    """The figures of every head from a file that `headcount heads inspect` wrote, read in the browser."""


class BlockMap(Element, component="components/blockMap.js"):
    """Every block of the KV cache, drawn."""
