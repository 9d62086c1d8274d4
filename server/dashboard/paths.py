"""Which paths are the dashboard's. NiceGUI is not imported here, so this is known long before the first page is opened."""

PAGES = {
    "/": "Overview",
    "/heads-cost": "MHA · GQA · MQA",
    "/playground": "Playground",
    "/heads": "Heads",
    "/blocks": "Blocks",
}
"""Path -> what the navigation calls it."""

SIGN_IN = "/sign-in"
FAVICON = "/favicon.ico"
ASSETS = "/_nicegui"
"""NiceGUI's scripts, styles and its WebSocket begin with it."""


def is_dashboard(path: str) -> bool:
    """True for what the dashboard answers; everything else is the API's."""
    return path in PAGES or path in (SIGN_IN, FAVICON) or path.startswith((f"{ASSETS}/", f"{ASSETS}_ws/"))
