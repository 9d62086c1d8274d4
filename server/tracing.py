"""OpenTelemetry traces of requests: a span each, and below it for every choice its queue, its prefill and its decode.

OpenTelemetry is imported where traces are asked for, and only there: without them a request costs a comparison with None.
Spans are made when their ends are known, so nothing is open while tokens flow.
"""

import os
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from configs.errors import SettingsError
from configs.tracing import TracingSettings
from engine.request import Request, TokenDelta

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span, Tracer

ENDPOINT_VARIABLES = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
UNTRACED = frozenset({"/health", "/ready", "/metrics", "/version"})


def wants_traces(settings: TracingSettings, environ: Mapping[str, str]) -> bool:
    """Whether there is a place for them, and OpenTelemetry's own switch is not off."""
    has_place = bool(settings.otlp_endpoint) or any(environ.get(name) for name in ENDPOINT_VARIABLES)
    return has_place and environ.get("OTEL_SDK_DISABLED", "").lower() != "true"


def start_tracing(settings: TracingSettings) -> "Tracing | None":
    """Traces that go to the collector of the settings or of the environment; None where there is none.

    Raises:
        SettingsError: they are asked for, and OpenTelemetry is not installed.
    """
    if not wants_traces(settings, os.environ):
        return None
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise SettingsError(f"traces need OpenTelemetry: pip install 'headcount[tracing]' ({error})") from None
    endpoint = f"{settings.otlp_endpoint.rstrip('/')}/v1/traces" if settings.otlp_endpoint else None
    provider = TracerProvider(
        resource=Resource.create({"service.name": os.environ.get("OTEL_SERVICE_NAME", "headcount")})
    )
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint)))
    return Tracing(provider)


class Tracing:
    """Makes the spans of one server.

    Args:
        provider: where they go.
    """

    def __init__(self, provider: "TracerProvider") -> None:
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._provider = provider
        self._propagator = TraceContextTextMapPropagator()
        self.tracer: Tracer = provider.get_tracer("headcount")

    def parent(self, scope: Scope) -> "Context":
        """The caller's span, which its `traceparent` header names; the root where there is none."""
        names = (b"traceparent", b"tracestate")
        carrier = {name.decode(): value.decode("latin-1") for name, value in scope["headers"] if name in names}
        return self._propagator.extract(carrier)

    def shutdown(self) -> None:
        """Send what is left; waits for the collector, so it belongs into a thread."""
        self._provider.shutdown()


class TracingMiddleware:
    """A span for every request, from its first byte to the last of its response.

    Args:
        app: what comes next. The request's id must be known already.
        tracing: makes the spans.
    """

    def __init__(self, app: ASGIApp, tracing: Tracing) -> None:
        self._app = app
        self._tracing = tracing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on; behind it `scope["state"]["span"]` is its span."""
        if scope["type"] != "http" or scope["path"] in UNTRACED:
            await self._app(scope, receive, send)
            return
        span = self._start(scope)
        scope["state"]["span"] = span

        async def send_and_note(message: Message) -> None:
            if message["type"] == "http.response.start":
                span.set_attribute("http.response.status_code", message["status"])
            await send(message)

        try:
            await self._app(scope, receive, send_and_note)
        finally:
            span.end()

    def _start(self, scope: Scope) -> "Span":
        from opentelemetry.trace import SpanKind

        attributes = {
            "http.request.method": scope["method"],
            "url.path": scope["path"],
            "headcount.x_request_id": scope["state"]["request_id"],
        }
        name = f"{scope['method']} {scope['path']}"
        parent = self._tracing.parent(scope)
        return self._tracing.tracer.start_span(name, parent, kind=SpanKind.SERVER, attributes=attributes)


class ChoiceTrace:
    """The phases of one choice.

    Args:
        tracer: makes their spans.
        parent: the request's span.
        model_name: of the model that runs it.
        request: the engine's.
    """

    def __init__(self, tracer: "Tracer", parent: "Span", model_name: str, request: Request) -> None:
        from opentelemetry.trace import set_span_in_context

        self._tracer = tracer
        self._parent = set_span_in_context(parent)
        self._attributes: dict[str, Any] = {
            "gen_ai.request.model": model_name,
            "headcount.request_id": request.request_id,
            "gen_ai.usage.input_tokens": request.num_prompt_tokens,
        }
        self._start_s = request.arrival_time_s
        self._scheduled_s: float | None = None
        self._first_token_s: float | None = None

    def observe(self, delta: TokenDelta) -> None:
        """Note when its phases began."""
        self._scheduled_s = self._scheduled_s or delta.scheduled_time_s
        if delta.token_ids and self._first_token_s is None:
            self._first_token_s = time.time()

    def end(self, finish_reason: str, num_generation_tokens: int, num_cached_tokens: int) -> None:
        """Make the spans of the phases that it came to."""
        now_s = time.time()
        self._attributes |= {
            "headcount.finish_reason": finish_reason,
            "gen_ai.usage.output_tokens": num_generation_tokens,
            "headcount.num_cached_tokens": num_cached_tokens,
        }
        times_s = [self._start_s, self._scheduled_s, self._first_token_s]
        for name, start_s, end_s in zip(("queue", "prefill", "decode"), times_s, [*times_s[1:], None], strict=True):
            if start_s is not None:
                self._span(name, start_s, now_s if end_s is None else end_s)

    def _span(self, name: str, start_s: float, end_s: float) -> None:
        start_ns, end_ns = round(start_s * 1e9), round(max(start_s, end_s) * 1e9)
        span = self._tracer.start_span(name, self._parent, attributes=self._attributes, start_time=start_ns)
        span.end(end_ns)


def trace_choice(tracing: Tracing | None, span: "Span | None", model_name: str, request: Request) -> ChoiceTrace | None:
    """The phases of a choice, where the server has traces and this request is in one that is kept."""
    if tracing is None or span is None or not span.is_recording():
        return None
    return ChoiceTrace(tracing.tracer, span, model_name, request)
