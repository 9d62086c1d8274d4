"""Traces: where they go, what they say, and that they cost nothing where nobody wants them."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from configs.errors import SettingsError
from configs.tracing import TracingSettings
from server.app import create_app
from server.tracing import Tracing, start_tracing, wants_traces
from tests.server.fake_engine import FakeServer
from tests.server.stand_ins import connect

pytestmark = pytest.mark.anyio

TRACE_ID, SPAN_ID = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
BODY = {"model": "tiny", "prompt": "hi", "max_tokens": 50}


@pytest.mark.parametrize(
    ("endpoint", "environ", "expected"),
    [
        (None, {}, False),
        ("http://collector:4318", {}, True),
        (None, {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}, True),
        (None, {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://collector:4318/v1/traces"}, True),
        (None, {"OTEL_EXPORTER_OTLP_ENDPOINT": ""}, False),
        ("http://collector:4318", {"OTEL_SDK_DISABLED": "true"}, False),
    ],
)
def test_traces_are_made_where_somebody_takes_them(
    endpoint: str | None, environ: dict[str, str], expected: bool
) -> None:
    assert wants_traces(TracingSettings(otlp_endpoint=endpoint), environ) is expected


def test_without_a_collector_what_makes_traces_is_not_even_imported() -> None:
    """FastAPI imports OpenTelemetry's interface where it is installed, and nothing that does anything."""
    makers = ("opentelemetry.sdk", "opentelemetry.exporter")
    code = f"import sys, server.run; print([name for name in sys.modules if name.startswith({makers})])"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout == "[]\n"
    assert start_tracing(TracingSettings()) is None


def test_traces_that_cannot_be_made_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with pytest.raises(SettingsError, match=r"pip install 'headcount\[tracing\]'"):
        start_tracing(TracingSettings(otlp_endpoint="http://localhost:4318"))


class Traced(FakeServer):
    """A fake server whose spans are kept."""

    def __init__(self, folder: Path, **options: Any) -> None:
        super().__init__(folder, **options)
        self._exporter = InMemorySpanExporter()
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        models, metrics = self.state.models, self.state.metrics
        self.app = create_app(self.state.http, models, Tracing(provider))
        self.app.state.server.metrics = metrics

    def spans(self) -> dict[str, ReadableSpan]:
        return {span.name: span for span in self._exporter.get_finished_spans()}


def attributes_of(span: ReadableSpan) -> dict[str, Any]:
    assert span.attributes is not None
    return dict(span.attributes)


async def test_a_request_is_a_span_with_its_phases_below_the_callers(tmp_path: Path) -> None:
    server = Traced(tmp_path)
    headers = {"traceparent": f"00-{TRACE_ID}-{SPAN_ID}-01", "X-Request-Id": "mine"}
    async with connect(server.app) as client:
        assert (await client.post("/v1/completions", json=BODY, headers=headers)).status_code == 200
    spans = server.spans()
    root = spans["POST /v1/completions"]
    assert root.parent is not None and root.context is not None
    assert f"{root.parent.span_id:016x}" == SPAN_ID
    assert {f"{span.context.trace_id:032x}" for span in spans.values() if span.context} == {TRACE_ID}
    assert attributes_of(root)["http.response.status_code"] == 200
    assert attributes_of(root)["headcount.x_request_id"] == "mine"
    phases = [spans[name] for name in ("queue", "prefill", "decode") if name in spans]
    assert [span.name for span in phases] == ["queue", "decode"], "the fake engine plans nothing"
    for span in phases:
        assert span.parent is not None and span.parent.span_id == root.context.span_id
        assert (span.start_time or 0) <= (span.end_time or 0)
        said = attributes_of(span)
        assert (said["gen_ai.request.model"], said["headcount.finish_reason"]) == ("tiny", "stop")
        assert said["gen_ai.usage.output_tokens"] > 1
        assert "hi" not in map(str, said.values()), "never what was asked"


async def test_phases_meet(tmp_path: Path) -> None:
    server = Traced(tmp_path, is_manual=True)
    says = server.engine._says

    def planned(request: Any) -> Any:
        deltas = says(request)
        deltas[0].scheduled_time_s = request.arrival_time_s + 0.25
        return deltas

    server.engine._says, server.engine.is_manual = planned, False
    async with connect(server.app) as client:
        await client.post("/v1/completions", json=BODY)
    spans = server.spans()
    queue, prefill, decode = (spans[name] for name in ("queue", "prefill", "decode"))
    assert queue.end_time == prefill.start_time
    assert prefill.end_time is not None and decode.start_time is not None
    assert (queue.end_time or 0) - (queue.start_time or 0) == pytest.approx(250_000_000, rel=0.01)


async def test_refusals_have_a_span_and_probes_have_none(tmp_path: Path) -> None:
    server = Traced(tmp_path)
    async with connect(server.app) as client:
        await client.get("/health")
        await client.get("/metrics")
        await client.post("/v1/completions", json={}, headers={"traceparent": "nonsense"})
    [(name, span)] = server.spans().items()
    assert (name, attributes_of(span)["http.response.status_code"]) == ("POST /v1/completions", 400)
    assert span.parent is None
