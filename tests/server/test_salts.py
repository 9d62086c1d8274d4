"""Salts: who may share cached blocks, through both routes, with one key, another, and none."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from pydantic import SecretStr

from server.salts import key_identity, prefix_salt
from tests.server.fake_engine import FakeServer
from tests.server.stand_ins import connect

pytestmark = pytest.mark.anyio

JSON = {"Content-Type": "application/json"}
BODIES: dict[str, dict[str, Any]] = {
    "/v1/completions": {"model": "tiny", "prompt": "hi", "max_tokens": 5},
    "/v1/chat/completions": {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 5},
}


def salt(api_key: str | None, cache_salt: str | None) -> str:
    state = SimpleNamespace(key_identity=key_identity(api_key.encode())) if api_key else SimpleNamespace()
    return prefix_salt(cast(Any, SimpleNamespace(state=state)), cache_salt)


def test_every_pair_of_key_and_salt_has_blocks_of_its_own() -> None:
    pairs = [(key, text) for key in (None, "k1", "k2", "k1s") for text in (None, "s", "k1", "1s", "é", "\0")]
    salts = [salt(*pair) for pair in pairs]
    assert len(set(salts)) == len(pairs)
    assert salts == [salt(*pair) for pair in pairs]
    assert salt(None, None) == ""


def test_neither_key_nor_salt_can_be_read_in_the_result() -> None:
    found = salt("k" * 40, "s" * 256)
    assert len(found) == 32
    assert "kk" not in found
    assert "ss" not in found


async def salts_at_the_engine(server: FakeServer, path: str, api_key: str | None, *given: str | None) -> list[str]:
    headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    async with connect(server.app) as client:
        for cache_salt in given:
            response = await client.post(path, json={**BODIES[path], "cache_salt": cache_salt}, headers=headers)
            assert response.status_code == 200, response.text
    return [request.cache_salt for request in server.engine.requests[-len(given) :]]


@pytest.mark.parametrize("path", BODIES)
async def test_the_engine_gets_the_salt_of_key_and_field(tmp_path: Path, path: str) -> None:
    open_server = FakeServer(tmp_path)
    assert await salts_at_the_engine(open_server, path, None, None, "a", "a", "b") == [
        "",
        salt(None, "a"),
        salt(None, "a"),
        salt(None, "b"),
    ]
    for api_key in ("first key", "second key"):
        server = FakeServer(tmp_path, api_key=SecretStr(api_key))
        found = await salts_at_the_engine(server, path, api_key, None, "a", None)
        assert found == [salt(api_key, None), salt(api_key, "a"), salt(api_key, None)]


async def test_all_choices_have_the_salt(tmp_path: Path) -> None:
    server = FakeServer(tmp_path)
    async with connect(server.app) as client:
        body = {**BODIES["/v1/completions"], "prompt": ["a", "b"], "n": 2, "cache_salt": "x"}
        assert (await client.post("/v1/completions", json=body)).status_code == 200
    assert [request.cache_salt for request in server.engine.requests] == [salt(None, "x")] * 4


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize(
    ("given", "code", "words"),
    [
        ("x" * 257, "invalid_value", "at most 256 characters"),
        ("x" * 1_000_000, "invalid_value", "at most 256 characters"),
        ("", "invalid_value", "at least 1 character"),
        (5, "invalid_type", "string"),
        (["x"], "invalid_type", "string"),
        ("\ud800", "invalid_value", "Unicode"),
    ],
    ids=["257", "a million", "empty", "number", "array", "half a surrogate pair"],
)
async def test_a_salt_that_is_none_is_refused(tmp_path: Path, path: str, given: Any, code: str, words: str) -> None:
    server = FakeServer(tmp_path)
    async with connect(server.app) as client:
        response = await client.post(path, content=json.dumps({**BODIES[path], "cache_salt": given}), headers=JSON)
    assert response.status_code == 400
    error = response.json()["error"]
    assert (error["param"], error["code"]) == ("cache_salt", code)
    assert "cache_salt" in error["message"]
    assert words in error["message"]
    assert len(error["message"]) < 400
    assert server.engine.requests == [], "nothing is left behind"


@pytest.mark.parametrize("path", BODIES)
async def test_the_longest_salt_is_taken(tmp_path: Path, path: str) -> None:
    server = FakeServer(tmp_path)
    assert await salts_at_the_engine(server, path, None, "é" * 256) == [salt(None, "é" * 256)]
