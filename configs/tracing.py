"""Where traces go."""

from cyclopts import Parameter

from configs.base import Settings
from configs.groups import TRACING


@Parameter(name="*", group=TRACING)
class TracingSettings(Settings):
    """OpenTelemetry traces; they need the extra `tracing`."""

    otlp_endpoint: str | None = None
    """Collector that takes OTLP over HTTP, such as http://localhost:4318. Unset: that of OTEL_EXPORTER_OTLP_ENDPOINT or
    OTEL_EXPORTER_OTLP_TRACES_ENDPOINT; without any there are no traces."""
