"""POST /tokenize and /detokenize."""

from typing import Any

import pytest

from tests.server import tiny_tokenizers as tiny
from tests.server.fake_engine import EOS_ID, VOCABULARY, FakeServer, encode
from tests.server.stand_ins import connect

pytestmark = pytest.mark.anyio

HI = [{"role": "user", "content": "hi"}]


async def post(server: FakeServer, path: str, **fields: Any) -> Any:
    async with connect(server.app) as client:
        return await client.post(path, json={"model": "tiny", **fields})


async def test_a_text(server: FakeServer) -> None:
    answer = (await post(server, "/tokenize", prompt="hello €", return_token_strs=True)).json()
    token_ids = encode("hello €")
    assert answer == {
        "count": len(token_ids),
        "max_model_len": 200,
        "tokens": token_ids,
        "token_strs": ["hello", " ", "\ufffd", "\ufffd", "\ufffd"],
    }
    assert (await post(server, "/tokenize", prompt="")).json()["tokens"] == []


async def test_a_conversation_is_what_chat_would_send(server: FakeServer) -> None:
    for add_generation_prompt, text in ((True, "<user>hi\n<assistant>"), (False, "<user>hi\n")):
        response = await post(server, "/tokenize", messages=HI, add_generation_prompt=add_generation_prompt)
        assert response.json()["tokens"] == encode(text)


async def test_there_and_back(server: FakeServer) -> None:
    text = f"hello € {tiny.EOS} {tiny.NON_ASCII}\n"
    token_ids = (await post(server, "/tokenize", prompt=text)).json()["tokens"]
    assert (await post(server, "/detokenize", tokens=token_ids)).json() == {"prompt": text}
    assert (await post(server, "/detokenize", tokens=[])).json() == {"prompt": ""}
    assert (await post(server, "/detokenize", tokens=[EOS_ID])).json() == {"prompt": tiny.EOS}


async def test_it_works_while_the_engine_loads(server: FakeServer) -> None:
    server.engine.info = None
    assert (await post(server, "/tokenize", prompt="h")).json()["max_model_len"] is None


@pytest.mark.parametrize(
    ("path", "fields", "param"),
    [
        ("/tokenize", {}, None),
        ("/tokenize", {"prompt": "x", "messages": HI}, None),
        ("/tokenize", {"prompt": 5}, "prompt"),
        ("/tokenize", {"prompt": "x", "y": 1}, "y"),
        ("/tokenize", {"messages": []}, "messages"),
        ("/detokenize", {}, "tokens"),
        ("/detokenize", {"tokens": [len(VOCABULARY)]}, "tokens"),
        ("/detokenize", {"tokens": [-1]}, "tokens"),
        ("/detokenize", {"tokens": ["1"]}, "tokens[0]"),
    ],
    ids=str,
)
async def test_bad_requests(server: FakeServer, path: str, fields: dict[str, Any], param: str | None) -> None:
    response = await post(server, path, **fields)
    assert (response.status_code, response.json()["error"]["param"]) == (400, param), response.text
    assert (await post(server, path, **{**fields, "model": "x"})).status_code in (400, 404)
