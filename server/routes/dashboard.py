"""POST /dashboard/session: a browser that has a key may open the dashboard's pages."""

from collections.abc import Callable

from fastapi import APIRouter, FastAPI, Request, Response
from starlette.types import ASGIApp

from server.dashboard.middleware import DashboardMiddleware
from server.dashboard.sessions import COOKIE, LIFETIME_S, Sessions

router = APIRouter(tags=["server"], include_in_schema=False)


def install(app: FastAPI, needs_key: Callable[[], bool]) -> None:
    """Put the dashboard before the API. Its paths branch off here, so the API's own checks come after it is added.

    Args:
        app: the API; the middleware that it has already checks keys.
        needs_key: whether the API asks for a key now: then a page is shown only to a browser that has shown one.
    """
    app.include_router(router)
    app.state.dashboard_sessions = Sessions()
    app.add_middleware(
        DashboardMiddleware, load=_load_pages, needs_key=needs_key, sessions=app.state.dashboard_sessions
    )


def _load_pages() -> ASGIApp:
    """The pages. NiceGUI takes a while to import: only where somebody opens one."""
    from server.dashboard.pages import build_pages  # noqa: PLC0415

    return build_pages()


@router.post("/dashboard/session", status_code=204)
async def open_session(request: Request) -> Response:
    """Set the cookie that opens the pages. It opens nothing else: what they show is asked for with the key."""
    sessions: Sessions = request.app.state.dashboard_sessions
    response = Response(status_code=204)
    response.set_cookie(
        COOKIE,
        sessions.issue(),
        max_age=LIFETIME_S,
        httponly=True,
        samesite="strict",
        secure=request.url.scheme == "https",
    )
    return response
