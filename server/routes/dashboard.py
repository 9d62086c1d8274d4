"""POST /dashboard/session: a browser that has the key may open the dashboard's pages."""

from fastapi import APIRouter, Request, Response

from server.dashboard.sessions import COOKIE, LIFETIME_S
from server.served_model import ServerState

router = APIRouter(tags=["server"], include_in_schema=False)


@router.post("/dashboard/session", status_code=204)
async def open_session(request: Request) -> Response:
    """Set the cookie that opens the pages. It opens nothing else: what they show is asked for with the key."""
    state: ServerState = request.app.state.server
    response = Response(status_code=204)
    is_secure = request.url.scheme == "https"
    token = state.dashboard_sessions.issue()
    response.set_cookie(COOKIE, token, max_age=LIFETIME_S, httponly=True, samesite="strict", secure=is_secure)
    return response
