"""Prometheus metrics: what API.md names, read from the engines' own numbers.

Gauges are read when somebody scrapes. Counters of an engine begin at 0 with each new process of it, so what its former
processes counted is kept here. Text format only: in OpenMetrics the counter `prompt_tokens_total` and the histogram
`prompt_tokens` would be one family.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple

import prometheus_client
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from engine.client import EngineClient, EngineState
from engine.info import EngineInfo, EngineStats
from engine.request import FinishReason
from kvcache.geometry import KVGeometry

if TYPE_CHECKING:
    from server.served_model import ServedModel

PREFIX = "headcount_"
MODEL = ["model_name"]
MODEL_KV = ["model_name", "attention_type", "num_kv_heads"]

# Per token: from a fast GPU's 1 ms to a stall. Per request: up to ten minutes.
TOKEN_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
REQUEST_SECONDS = (
    0.001,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    5.0,
    10.0,
    30.0,
    60.0,
    120.0,
    300.0,
    600.0,
)
TOKENS = tuple(float(2**power) for power in range(18))

HISTOGRAMS: dict[str, tuple[str, tuple[float, ...]]] = {
    "time_to_first_token_seconds": ("From the request's arrival to its first token.", REQUEST_SECONDS),
    "inter_token_latency_seconds": ("Between two tokens of a request.", TOKEN_SECONDS),
    "request_duration_seconds": ("From the request's arrival to its last token.", REQUEST_SECONDS),
    "queue_seconds": ("From the request's arrival to its first step.", REQUEST_SECONDS),
    "step_seconds": ("One step of the engine.", TOKEN_SECONDS),
    "step_tokens": ("Tokens computed in one step.", TOKENS),
    "prompt_tokens": ("Prompt tokens of a request.", TOKENS),
    "generation_tokens": ("Generated tokens of a request.", TOKENS),
}

ENGINE_COUNTERS = {
    "prompt_tokens": "Prompt tokens computed or found in the prefix cache.",
    "generation_tokens": "Generated tokens.",
    "cached_prompt_tokens": "Prompt tokens found in the prefix cache.",
    "preemptions": "Requests that lost their blocks to others and were computed again.",
}
"""Fields of EngineStats that are counters, `kv_read_bytes` aside, whose labels are others."""

LEDGER_GAUGES: dict[str, tuple[str, Callable[[EngineInfo], int]]] = {
    "weights_bytes": ("The model's parameters.", lambda info: info.ledger.weights_bytes),
    "workspace_bytes": ("Peak of one step's activations and scratch.", lambda info: info.ledger.workspace_bytes),
    "device_total_bytes": ("The device's memory.", lambda info: info.ledger.total_bytes),
    "device_unaccounted_bytes": ("What no entry of the ledger explains.", lambda info: info.ledger.unaccounted_bytes),
}


class KVUsage(NamedTuple):
    """What the KV cache of one engine holds now.

    Attributes:
        used_bytes: blocks that a request refers to.
        filled_bytes: their slots that hold a token.
        cached_bytes: blocks that only the prefix cache holds: evictable.
    """

    num_free_blocks: int
    num_used_blocks: int
    num_cached_blocks: int
    total_bytes: int
    used_bytes: int
    filled_bytes: int
    cached_bytes: int

    @property
    def wasted_bytes(self) -> int:
        """Slots of used blocks that hold no token yet."""
        return self.used_bytes - self.filled_bytes


def kv_usage(info: EngineInfo, stats: EngineStats) -> KVUsage:
    """Blocks to bytes. An engine that has sent no snapshot yet holds nothing: all its blocks are free."""
    geometry = info.geometry
    return KVUsage(
        num_free_blocks=info.num_blocks - stats.num_used_blocks - stats.num_cached_blocks,
        num_used_blocks=stats.num_used_blocks,
        num_cached_blocks=stats.num_cached_blocks,
        total_bytes=info.num_blocks * geometry.bytes_per_block,
        used_bytes=stats.num_used_blocks * geometry.bytes_per_block,
        filled_bytes=stats.num_filled_slots * (geometry.bytes_per_block // geometry.block_size),
        cached_bytes=stats.num_cached_blocks * geometry.bytes_per_block,
    )


def kv_heads_label(geometry: KVGeometry) -> str:
    """`3`, or `1,8` where layers differ."""
    return ",".join(str(number) for number in sorted({layer.num_kv_heads for layer in geometry.layers}))


class EngineCounters:
    """Counts one engine over all its processes, and hands its observations to histograms.

    Args:
        client: the engine; its snapshots come here from now on.
        histograms: `step_seconds`, `step_tokens` and `queue_seconds` of this model.
    """

    def __init__(self, client: EngineClient, histograms: dict[str, Histogram]) -> None:
        self._client = client
        self._histograms = histograms
        self._former = dict.fromkeys((*ENGINE_COUNTERS, "kv_read_bytes"), 0)
        self._newest = EngineStats()
        self._num_restarts = client.num_restarts
        client.on_stats = self._take

    def total(self, name: str) -> int:
        """What the present process and all former ones counted."""
        return self._former[name] + int(getattr(self._newest, name))

    def _take(self, stats: EngineStats) -> None:
        if self._client.num_restarts != self._num_restarts:
            self._num_restarts = self._client.num_restarts
            self._former = {name: self.total(name) for name in self._former}
        self._newest = stats
        for name in ("step_seconds", "step_tokens", "queue_seconds"):
            for value in getattr(stats.observations, name):
                self._histograms[name].observe(value)


class ModelMetrics(NamedTuple):
    """One model's part of the metrics."""

    model_name: str
    client: EngineClient
    histograms: dict[str, Histogram]
    counters: EngineCounters

    @property
    def prefix_cache_hit_ratio(self) -> float:
        """Cached prompt tokens over all; 0 before the first."""
        return self.counters.total("cached_prompt_tokens") / max(1, self.counters.total("prompt_tokens"))


class EngineCollector(Collector):
    """Reads the engines when somebody scrapes.

    Args:
        models: those that are registered, and those that will be.
    """

    def __init__(self, models: dict[str, ModelMetrics]) -> None:
        self._models = models

    def collect(self) -> Iterator[Metric]:
        """Every gauge, and the counters that engines count."""
        models = list(self._models.values())
        loaded = [(model, model.client.info) for model in models if model.client.info is not None]
        yield from _state_metrics(models)
        yield from _counter_metrics(models)
        yield from _info_metrics(loaded)
        yield from _kv_metrics(loaded)


class Metrics:
    """All metrics of one server, in a registry of their own."""

    def __init__(self) -> None:
        # The time each series began doubles the page, and nobody asked for it.
        prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]
        self._registry = CollectorRegistry()
        self._models: dict[str, ModelMetrics] = {}
        self._requests = Counter(
            f"{PREFIX}requests_total", "Requests that ended.", [*MODEL, "finish_reason"], registry=self._registry
        )
        self._rejected = Counter(
            f"{PREFIX}rejected_requests_total", "Requests refused.", [*MODEL, "reason"], registry=self._registry
        )
        # In a registry each: one would take prompt_tokens and prompt_tokens_total for a clash.
        self._histograms_registry = CollectorRegistry()
        self._histograms = {
            name: Histogram(PREFIX + name, text, MODEL, buckets=buckets, registry=self._histograms_registry)
            for name, (text, buckets) in HISTOGRAMS.items()
        }
        self._registry.register(EngineCollector(self._models))

    def register(self, model: "ServedModel") -> None:
        """Show `model` from now on, from zero; takes over its client's `on_stats`."""
        histograms = {name: histogram.labels(model.name) for name, histogram in self._histograms.items()}
        counters = EngineCounters(model.client, histograms)
        self._models[model.name] = ModelMetrics(model.name, model.client, histograms, counters)
        for reason in FinishReason:
            self._requests.labels(model.name, reason.value)

    def observe_first_token(self, model_name: str, seconds: float) -> None:
        """A request's first token came `seconds` after its arrival."""
        self._models[model_name].histograms["time_to_first_token_seconds"].observe(seconds)

    def observe_inter_token(self, model_name: str, seconds: float) -> None:
        """A token came `seconds` after the one before it."""
        self._models[model_name].histograms["inter_token_latency_seconds"].observe(seconds)

    def observe_finished(
        self,
        model_name: str,
        *,
        finish_reason: str,
        duration_s: float,
        num_prompt_tokens: int,
        num_generation_tokens: int,
    ) -> None:
        """A request ended."""
        histograms = self._models[model_name].histograms
        self._requests.labels(model_name, finish_reason).inc()
        histograms["request_duration_seconds"].observe(duration_s)
        histograms["prompt_tokens"].observe(num_prompt_tokens)
        histograms["generation_tokens"].observe(num_generation_tokens)

    def count_rejected(self, model_name: str, reason: str) -> None:
        """A request was refused. A name that is not served is left out: clients must not be able to make up series."""
        self._rejected.labels(model_name if model_name in self._models else "", reason).inc()

    def families(self) -> list[Metric]:
        """Every metric that there is, with its name, type and text; its samples, as far as models are registered."""
        return [*self._registry.collect(), *self._histograms_registry.collect()]

    def render(self) -> tuple[bytes, str]:
        """The page and its content type."""
        return generate_latest(self._registry) + generate_latest(self._histograms_registry), CONTENT_TYPE_LATEST


_Loaded = Iterable[tuple[ModelMetrics, EngineInfo]]


def _gauge(name: str, text: str, labels: list[str], rows: Iterable[tuple[list[str], float]]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(PREFIX + name, text, labels=labels)
    for values, number in rows:
        family.add_metric(values, number)
    return family


def _counter(name: str, text: str, labels: list[str], rows: Iterable[tuple[list[str], float]]) -> CounterMetricFamily:
    family = CounterMetricFamily(PREFIX + name, text, labels=labels)
    for values, number in rows:
        family.add_metric(values, number)
    return family


def _state_metrics(models: list[ModelMetrics]) -> Iterator[Metric]:
    """What every engine has, loaded or not."""
    readers: dict[str, tuple[str, Callable[[ModelMetrics], float]]] = {
        "engine_up": ("1 while the engine answers.", lambda model: model.client.state is EngineState.READY),
        "requests_running": ("Requests in the running batch.", lambda model: model.client.stats.num_running),
        "requests_waiting": ("Requests that wait for a place.", lambda model: model.client.stats.num_waiting),
        "prefix_cache_hit_ratio": (
            "Prompt tokens found in the prefix cache, over all.",
            lambda model: model.prefix_cache_hit_ratio,
        ),
    }
    for name, (text, read) in readers.items():
        yield _gauge(name, text, MODEL, [([model.model_name], float(read(model))) for model in models])


def _counter_metrics(models: list[ModelMetrics]) -> Iterator[Metric]:
    for name, text in ENGINE_COUNTERS.items():
        yield _counter(name, text, MODEL, [([model.model_name], model.counters.total(name)) for model in models])
    restarts = [([model.model_name], float(model.client.num_restarts)) for model in models]
    yield _counter("engine_restarts", "Times the engine's process had to be started again.", MODEL, restarts)


def _info_metrics(loaded: _Loaded) -> Iterator[Metric]:
    """What is fixed once a model is loaded."""
    for name, (text, read) in LEDGER_GAUGES.items():
        yield _gauge(name, text, MODEL, [([model.model_name], read(info)) for model, info in loaded])
    phases = [([model.model_name, phase], s) for model, info in loaded for phase, s in info.startup_s.items()]
    yield _gauge("startup_seconds", "The engine's start by phase; they sum to the whole.", [*MODEL, "phase"], phases)


def _kv_metrics(loaded: _Loaded) -> Iterator[Metric]:
    """The KV cache: each series says which kind of attention makes it as large as it is."""
    rows = [(_kv_labels(model, info), model, info, kv_usage(info, model.client.stats)) for model, info in loaded]
    byte_gauges = {
        "total": "The KV cache.",
        "used": "Blocks that a request refers to.",
        "filled": "Slots of used blocks that hold a token.",
        "cached": "Blocks that only the prefix cache holds: evictable.",
    }
    for part, text in byte_gauges.items():
        numbers = [(labels, float(getattr(usage, f"{part}_bytes"))) for labels, _, _, usage in rows]
        yield _gauge(f"kv_cache_{part}_bytes", text, MODEL_KV, numbers)
    per_token = [(labels, float(info.geometry.bytes_per_token)) for labels, _, info, _ in rows]
    yield _gauge("kv_bytes_per_token", "Keys and values of one token, all layers.", MODEL_KV, per_token)
    blocks = [
        ([*labels, part], float(getattr(usage, f"num_{part}_blocks")))
        for labels, _, _, usage in rows
        for part in ("free", "used", "cached")
    ]
    yield _gauge("kv_cache_blocks", "Blocks by what they hold.", [*MODEL_KV, "state"], blocks)
    reads = [(labels, float(model.counters.total("kv_read_bytes"))) for labels, model, _, _ in rows]
    yield _counter("kv_read_bytes", "KV bytes that attention had to read.", MODEL_KV, reads)


def _kv_labels(model: ModelMetrics, info: EngineInfo) -> list[str]:
    return [model.model_name, info.geometry.attention_type.value, kv_heads_label(info.geometry)]
