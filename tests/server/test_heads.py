"""POST /v1/heads/attention: bounded, for admins, and as the engine says."""

import base64
from pathlib import Path
from typing import Any

import msgspec
import pytest
from pydantic import SecretStr

from heads.texts import find_delimiters
from server.protocol.heads import MAX_TOKENS
from server.routes import heads
from tests.server import tiny_tokenizers as tiny
from tests.server.fake_engine import EOS_ID, VOCABULARY, FakeServer, encode
from tests.server.stand_ins import connect

pytestmark = pytest.mark.anyio


class HeadsServer(FakeServer):
    """A server whose engine answers with the indices of the layers that it is asked for."""

    def __init__(self, folder: Path, **http: Any) -> None:
        super().__init__(folder, **http)
        self.asked: list[tuple[list[int], list[int]]] = []
        info = self.engine.info
        assert info is not None
        self.engine.info = msgspec.structs.replace(info, max_model_len=10_000)
        self.engine.attention_maps = self._answer  # type: ignore[attr-defined]

    async def _answer(self, token_ids: list[int], layers: list[int]) -> list[bytes]:
        self.asked.append((token_ids, layers))
        return [bytes([layer_idx]) for layer_idx in layers]

    async def post(self, key: str = "", **body: Any) -> Any:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        async with connect(self.app) as client:
            return await client.post("/v1/heads/attention", json={"model": "tiny", **body}, headers=headers)


async def test_layers_and_tokens(tmp_path: Path) -> None:
    server = HeadsServer(tmp_path)
    answer = (await server.post(prompt="hello é", layers=[4, 2, 4])).json()
    [(token_ids, layers)] = server.asked
    assert layers == [2, 4]
    assert answer["token_ids"] == token_ids
    assert len(answer["tokens"]) == len(token_ids)
    assert [base64.b64decode(layer.pop("weights")) for layer in answer["layers"]] == [b"\2", b"\4"]
    assert answer["layers"] == [{"layer_idx": i, "num_q_heads": 9, "num_kv_heads": 3} for i in (2, 4)]
    assert answer["num_layers"] == 30


async def test_token_ids_are_taken_as_they_are(tmp_path: Path) -> None:
    server = HeadsServer(tmp_path)
    answer = (await server.post(prompt=[5, 3, 5], layers=[0])).json()
    assert server.asked == [([5, 3, 5], [0])]
    assert answer["token_ids"] == [5, 3, 5]
    assert len(answer["tokens"]) == 3


async def test_delimiters_are_those_that_inspect_counts(tmp_path: Path) -> None:
    server = HeadsServer(tmp_path)
    token_ids = [EOS_ID, *encode("a, b.\n c")]
    answer = (await server.post(prompt=token_ids, layers=[0])).json()
    assert answer["is_delimiter"] == find_delimiters(tiny.byte_level(), token_ids)
    found = [
        token for token, is_delimiter in zip(answer["tokens"], answer["is_delimiter"], strict=True) if is_delimiter
    ]
    assert found == [tiny.EOS, ",", ".", "\n"]


async def test_all_layers_where_none_is_named(tmp_path: Path) -> None:
    server = HeadsServer(tmp_path)
    assert len((await server.post(prompt="hello")).json()["layers"]) == 30


@pytest.mark.parametrize(
    ("body", "param", "says"),
    [
        ({"prompt": ""}, "prompt", "at least 1"),
        ({"prompt": "x" * 4000}, "prompt", f"1 to {MAX_TOKENS} tokens"),
        ({"prompt": []}, "prompt", "at least 1"),
        ({"prompt": 5}, "prompt", "must be a string or an array, got 5"),
        ({"prompt": [1, "a"]}, "prompt[1]", "must be an integer"),
        ({"prompt": [0] * (MAX_TOKENS + 1)}, "prompt", f"1 to {MAX_TOKENS} tokens, got {MAX_TOKENS + 1}"),
        ({"prompt": [0, -1]}, "prompt", f"token ids must be 0 to {len(VOCABULARY) - 1}, got -1"),
        ({"prompt": [len(VOCABULARY)]}, "prompt", f"0 to {len(VOCABULARY) - 1}, got {len(VOCABULARY)}"),
        ({"prompt": "a", "layers": [30]}, "layers", "0 to 29, got 30"),
        ({"prompt": "a", "layers": [-1]}, "layers", "0 to 29, got -1"),
        ({"prompt": "a", "layers": []}, "layers", "at least 1"),
        ({"prompt": "a", "heads": [1]}, "heads", "heads"),
    ],
)
async def test_what_makes_no_sense_is_refused(tmp_path: Path, body: dict[str, Any], param: str, says: str) -> None:
    server = HeadsServer(tmp_path)
    answer = await server.post(**body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
    assert says in answer.json()["error"]["message"]
    assert server.asked == []


async def test_an_answer_has_a_largest_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = HeadsServer(tmp_path)
    num_tokens = len((await server.post(prompt="hello hello")).json()["tokens"])
    monkeypatch.setattr(heads, "MAX_WEIGHTS_BYTES", 3 * 9 * num_tokens * (num_tokens + 1))
    answer = await server.post(prompt="hello hello")
    assert answer.status_code == 400
    assert "name fewer layers" in answer.json()["error"]["message"]
    assert (await server.post(prompt="hello hello", layers=[0, 1, 2])).status_code == 200


async def test_it_is_for_admins(tmp_path: Path) -> None:
    server = HeadsServer(tmp_path, api_key=SecretStr("user"), admin_key=SecretStr("admin"))
    assert (await server.post(prompt="a")).status_code == 401
    assert (await server.post("user", prompt="a")).status_code == 403
    assert (await server.post("admin", prompt="a")).status_code == 200
