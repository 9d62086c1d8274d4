"""Scripts of other web pages: closed unless an origin is named."""

from pathlib import Path

import pytest
from pydantic import SecretStr, ValidationError

from configs.http import HTTPSettings
from tests.server.fake_engine import FakeServer
from tests.server.stand_ins import connect

pytestmark = pytest.mark.anyio

PAGE = "https://page.example"
PREFLIGHT = {"Origin": PAGE, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}


async def test_nothing_is_said_to_other_pages_by_default(tmp_path: Path) -> None:
    async with connect(FakeServer(tmp_path).app) as client:
        answers = [
            await client.options("/v1/models", headers=PREFLIGHT),
            await client.get("/v1/models", headers=PREFLIGHT),
        ]
    assert answers[0].status_code == 405
    assert not any(name.startswith("access-control") for answer in answers for name in answer.headers)


async def test_a_page_that_is_named_may_call_with_its_key(tmp_path: Path) -> None:
    app = FakeServer(tmp_path, cors_origins=(PAGE,), api_key=SecretStr("k")).app
    async with connect(app) as client:
        preflight = await client.options("/v1/models", headers=PREFLIGHT)
        assert preflight.status_code == 200
        assert preflight.headers["access-control-allow-origin"] == PAGE
        assert "access-control-allow-credentials" not in preflight.headers
        for key, status in (("k", 200), ("wrong", 401)):
            answer = await client.get("/v1/models", headers={"Origin": PAGE, "Authorization": f"Bearer {key}"})
            assert answer.status_code == status
            assert answer.headers["access-control-allow-origin"] == PAGE
            assert "X-Request-Id" in answer.headers["access-control-expose-headers"]
        other = await client.options("/v1/models", headers={**PREFLIGHT, "Origin": "https://other.example"})
        assert other.status_code == 400
        assert "access-control-allow-origin" not in other.headers


@pytest.mark.parametrize("origin", ["page.example", "https://page.example/", "https://page.example/path", "", "null"])
def test_what_no_browser_sends_as_an_origin_is_refused(origin: str) -> None:
    with pytest.raises(ValidationError, match="must hold origins such as"):
        HTTPSettings(cors_origins=(origin,))
