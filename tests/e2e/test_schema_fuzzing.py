"""schemathesis over the whole of /openapi.json: data that fits it, and data that does not.

No server error, every error in the one shape, every answer as it is described; afterwards nothing is left in the pool.
"""

from collections.abc import Iterator
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.specs.openapi import checks

from tests.e2e.server_process import ServerProcess
from tests.e2e.wire_checks import check_answer

pytestmark = [pytest.mark.e2e, pytest.mark.demo]

POSITIVE, NEGATIVE = schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE
NUM_CASES = {
    "POST /v1/completions": (350, 450),
    "POST /v1/chat/completions": (200, 250),
    "POST /tokenize": (100, 60),
    "POST /detokenize": (50, 100),
    "POST /v1/kv/plan": (60, 100),
    "GET /v1/models/{model_id}": (30, 0),
    "GET /v1/requests/{request_id}": (30, 0),
    "GET /v1/kv/blocks": (30, 40),
    "POST /v1/heads/attention": (40, 60),
    # What fits would start engines.
    "POST /v1/compare": (0, 60),
    **dict.fromkeys(
        (
            "GET /v1/compare/{comparison_id}",
            "DELETE /v1/compare/{comparison_id}",
            "GET /v1/compare/{comparison_id}/events",
        ),
        (20, 0),
    ),
    **dict.fromkeys(
        (
            "GET /v1/models",
            "GET /v1/compare",
            "GET /v1/kv",
            "GET /health",
            "GET /ready",
            "GET /version",
            "GET /metrics",
        ),
        (1, 0),
    ),
}
"""Cases of both kinds for each operation; 0 where nothing that a client sends can be wrong."""
CHECKS: list[Any] = [
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_schema_conformance,
    checks.negative_data_rejection,
]
RUNS = [
    (name, mode, num) for name, both in NUM_CASES.items() for mode, num in zip((POSITIVE, NEGATIVE), both, strict=True)
]


@pytest.fixture(scope="module")
def schema(tiny_server: ServerProcess) -> Any:
    schema = schemathesis.openapi.from_url(f"{tiny_server.url}/openapi.json")
    schema.config.max_stream_events = 1_000_000  # it would leave a stream after a few, and [DONE] is the last one
    return schema


@pytest.fixture(scope="module")
def session() -> Iterator[requests.Session]:
    with requests.Session() as session:
        yield session


def test_every_operation_is_fuzzed(schema: Any) -> None:
    assert {result.ok().label for result in schema.get_all_operations()} == set(NUM_CASES)
    assert sum(num for _, _, num in RUNS) >= 2000


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("name", "mode", "num_cases"), [run for run in RUNS if run[2]], ids=str)
def test_answers_are_as_described(
    schema: Any, session: requests.Session, tiny_server: ServerProcess, name: str, mode: Any, num_cases: int
) -> None:
    fuzz(schema, session, name, mode, settings(max_examples=num_cases, derandomize=True))
    tiny_server.wait_idle()


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("mode", [POSITIVE, NEGATIVE], ids=str)
@pytest.mark.parametrize("name", ["POST /v1/completions", "POST /v1/chat/completions"])
def test_many_answers_are_as_described(
    schema: Any, session: requests.Session, tiny_server: ServerProcess, name: str, mode: Any
) -> None:
    fuzz(schema, session, name, mode, settings(max_examples=2500))
    tiny_server.wait_idle()


def fuzz(schema: Any, session: requests.Session, name: str, mode: Any, limits: settings) -> None:
    """Send what schemathesis makes of an operation."""
    method, path = name.split()
    strategy = schema[path][method].as_strategy(generation_mode=mode)

    @settings(limits, database=None, suppress_health_check=list(HealthCheck), phases=[Phase.generate])
    @given(case=strategy)
    def send(case: Any) -> None:
        if mode is POSITIVE and isinstance(case.body, dict) and "model" in case.body:
            case.body["model"] = "tiny"
        response = case.call(session=session, timeout=60)
        check_answer(response.status_code, response.headers.get("content-type", [""])[0], response.text)
        case.validate_response(response, checks=CHECKS)

    send()
