"""What docs/api.md shows of each operation: a request with curl, and the same in Python. The tests run them all."""

import json
from typing import Any, NamedTuple

BASE_URL = "http://127.0.0.1:8000"
MODEL = "demo"
MESSAGES = [{"role": "user", "content": "What is the capital of France?"}]


class Example(NamedTuple):
    """One request.

    Attributes:
        path: with its parameters filled in.
        body: as JSON; None where there is none.
        python: lines after the client is made; none: httpx sends the same.
        method: where it is neither GET nor, with a body, POST.
        status: of the answer to curl; an id that is made up is not found.
    """

    path: str
    body: dict[str, Any] | None = None
    python: str = ""
    method: str = ""
    status: int = 200

    @property
    def as_curl(self) -> str:
        """A line for a shell."""
        if self.body is None:
            return f"curl {f'-X {self.method} ' if self.method else ''}{BASE_URL}{self.path}"
        content = json.dumps(self.body).replace("'", "\\u0027")
        return f"curl {BASE_URL}{self.path} -H 'Content-Type: application/json' \\\n  -d '{content}'"

    @property
    def as_python(self) -> str:
        """A program."""
        if self.python:
            return f"{OPENAI}{self.python}"
        told = "text" if self.path == "/metrics" else "json()"
        if self.body is None:
            return f'import httpx\n\nprint(httpx.get("{BASE_URL}{self.path}").{told})'
        lines = f'body = {_python(self.body)}\nprint(httpx.post("{BASE_URL}{self.path}", json=body).{told})'
        return f"import httpx\n\n{lines}"


OPENAI = f'''from openai import OpenAI

client = OpenAI(base_url="{BASE_URL}/v1", api_key="unused")
'''

COMPARISON = {"model": MODEL, "num_kv_heads": [3], "num_requests": 2, "prompt_tokens": 32, "max_tokens": 8}
START_COMPARISON = f'''import httpx

body = {json.dumps(COMPARISON)}
run = httpx.post("{BASE_URL}/v1/compare", json=body).json()'''
STOP_COMPARISON = f'''
httpx.delete(f"{BASE_URL}/v1/compare/{{run['id']}}", timeout=60)'''

EXAMPLES = {
    "POST /v1/completions": Example(
        "/v1/completions",
        {"model": MODEL, "prompt": "The capital of France is", "max_tokens": 8, "temperature": 0, "logprobs": 2},
        """answer = client.completions.create(
    model="demo", prompt="The capital of France is", max_tokens=8, temperature=0, logprobs=2
)
print(answer.choices[0].text)""",
    ),
    "POST /v1/chat/completions": Example(
        "/v1/chat/completions",
        {"model": MODEL, "messages": MESSAGES, "max_tokens": 16, "kv_receipt": True},
        """stream = client.chat.completions.create(
    model="demo",
    messages=[{"role": "user", "content": "What is the capital of France?"}],
    max_tokens=16,
    stream=True,
    extra_body={"top_k": 20, "bad_words": ["Lyon"]},
)
for chunk in stream:
    print(chunk.choices[0].delta.content or "", end="")""",
    ),
    "GET /v1/models": Example("/v1/models", None, "print([model.id for model in client.models.list()])"),
    "GET /v1/models/{model_id}": Example("/v1/models/demo", None, 'print(client.models.retrieve("demo"))'),
    "POST /tokenize": Example("/tokenize", {"model": MODEL, "messages": MESSAGES}),
    "POST /detokenize": Example("/detokenize", {"model": MODEL, "tokens": [504, 3575, 282, 4649, 314]}),
    "GET /v1/kv": Example("/v1/kv"),
    "GET /v1/kv/blocks": Example("/v1/kv/blocks?limit=16"),
    "POST /v1/kv/plan": Example(
        "/v1/kv/plan",
        {
            "layers": [{"num_layers": 32, "num_q_heads": 32, "num_kv_heads": 8, "head_dim": 128}],
            "memory_bytes": 80_000_000_000,
            "weights_bytes": 16_000_000_000,
        },
    ),
    "GET /v1/requests/{request_id}": Example(
        "/v1/requests/chatcmpl-0123456789abcdef",
        None,
        f'''import httpx

stream = client.completions.create(model="demo", prompt="Once upon a time", max_tokens=100, stream=True)
name = next(stream).id
print(httpx.get(f"{BASE_URL}/v1/requests/{{name}}").json())
stream.close()''',
        status=404,
    ),
    "POST /v1/heads/attention": Example(
        "/v1/heads/attention", {"model": MODEL, "prompt": "The cat sat on the mat.", "layers": [0]}
    ),
    "POST /v1/compare": Example(
        "/v1/compare",
        COMPARISON,
        f"""{START_COMPARISON}
print(run["id"], run["state"]){STOP_COMPARISON}""",
        status=202,
    ),
    "GET /v1/compare": Example("/v1/compare"),
    "GET /v1/compare/{comparison_id}": Example(
        "/v1/compare/cmp-0123456789abcdef",
        None,
        f'''{START_COMPARISON}
print(httpx.get(f"{BASE_URL}/v1/compare/{{run['id']}}").json()["state"]){STOP_COMPARISON}''',
        status=404,
    ),
    "GET /v1/compare/{comparison_id}/events": Example(
        "/v1/compare/cmp-0123456789abcdef/events",
        None,
        f'''{START_COMPARISON}
with httpx.stream("GET", f"{BASE_URL}/v1/compare/{{run['id']}}/events", timeout=60) as events:
    print(next(events.iter_lines())){STOP_COMPARISON}''',
        status=404,
    ),
    "DELETE /v1/compare/{comparison_id}": Example(
        "/v1/compare/cmp-0123456789abcdef",
        None,
        f'''{START_COMPARISON}
print(httpx.delete(f"{BASE_URL}/v1/compare/{{run['id']}}", timeout=60).json()["state"])''',
        method="DELETE",
        status=404,
    ),
    "GET /health": Example("/health"),
    "GET /ready": Example("/ready"),
    "GET /version": Example("/version"),
    "GET /metrics": Example("/metrics"),
}
"""By method and path; a test holds that each operation has one."""


def _python(value: Any) -> str:
    """A body as Python writes it: with one field a line where it is long."""
    text = repr(value).replace("'", '"')
    if len(text) < 60 or not isinstance(value, dict):
        return text
    return "{\n" + "".join(f'    "{name}": {_python(item)},\n' for name, item in value.items()) + "}"
