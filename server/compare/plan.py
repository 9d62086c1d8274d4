"""What a comparison will measure, from config.json and geometry alone: refused here, or not at all for what is asked."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from checkpoints.headers import read_config, read_headers
from configs.compare import CompareSettings, Workload
from configs.engine import EngineSettings
from configs.sizes import format_bytes
from engine.dtypes import KV_FORMATS, resolve_dtype, resolve_kv_cache_dtype
from engine.models.spec import DecoderSpec
from kvcache.geometry import KVGeometry, LayerGeometry
from server.compare.errors import ComparisonRefusedError
from server.kv_plan import fit

MAX_VARIANTS = 8
MAX_AT_ONCE = 1024
"""Requests of a variant that may fit: more of them take long to send, and say nothing new."""
SPARE_PLACES = 8
"""Places that the engines have over what is planned, so that more could run than were planned."""

SOURCE, REPEAT = "source", "repeat"
"""How a variant is made where its heads are the model's own, or each of them several times."""


class PlannedVariant(msgspec.Struct, frozen=True):
    """One number of key/value heads, and what fits in its KV pool.

    Attributes:
        method: `source`, `repeat`, or how heads are pooled.
        blocks_per_request: that a request of the workload's length takes.
        num_blocks: of the pool.
        num_tokens: that fit.
        num_requests: of the workload's length that fit.
    """

    num_kv_heads: int
    num_q_heads: int
    attention_type: str
    method: str
    kv_bytes_per_token: int
    kv_cache_bytes: int
    blocks_per_request: int
    num_blocks: int
    num_tokens: int
    num_requests: int

    @property
    def is_exact(self) -> bool:
        """It computes what the source does: no head was joined with another."""
        return self.method in (SOURCE, REPEAT)

    @property
    def title(self) -> str:
        """`GQA, 3 KV heads`."""
        plural = "" if self.num_kv_heads == 1 else "s"
        return f"{self.attention_type.upper()}, {self.num_kv_heads} KV head{plural}"


class Job(NamedTuple):
    """A comparison that can be made.

    Attributes:
        folder: of the source.
        settings: what was asked for.
        engine: what every variant's engine is told.
        token_ids: ordinary tokens, to draw prompts from.
        variants: most heads first; the source is one of them.
    """

    folder: Path
    settings: CompareSettings
    engine: EngineSettings
    token_ids: Sequence[int]
    variants: tuple[PlannedVariant, ...]

    @property
    def num_tokens(self) -> int:
        """Tokens that are computed at most: the waves that measure capacity, and the load."""
        workload = self.settings.workload
        requests = sum(2 * variant.num_requests + 1 + workload.num_requests for variant in self.variants)
        return requests * workload.request_tokens


def plan_comparison(settings: CompareSettings, folder: Path, engine: EngineSettings, token_ids: Sequence[int]) -> Job:
    """Check what is asked for, and work out what fits.

    Args:
        settings: what is asked for.
        folder: the checkpoint.
        engine: what the engines are told beside budget and limits.
        token_ids: ordinary tokens.

    Raises:
        ComparisonRefusedError: heads that cannot be had, a length over the context, a budget too small or too large.
        CheckpointError, ModelLoadError: the folder holds no model that can be served.
    """
    from engine.models.registry import load_spec  # noqa: PLC0415  all families: a server starts without them

    config = read_config(folder)
    spec, workload = load_spec(config), settings.workload
    heads = _heads(spec)
    _check_length(workload, spec)
    geometry = _geometry(spec, config, folder, engine)
    counts = _head_counts(settings.num_kv_heads, heads)
    variants = tuple(_plan_variant(count, geometry, heads, settings) for count in counts)
    most = max(variant.num_requests for variant in variants)
    if most > MAX_AT_ONCE:
        raise ComparisonRefusedError(
            f"{format_bytes(settings.kv_cache_memory_bytes)} hold {most} requests of {workload.request_tokens} tokens,"
            f" and at most {MAX_AT_ONCE} are measured: lower kv_cache_memory_bytes, or take longer requests",
            param="kv_cache_memory_bytes",
        )
    return Job(folder, settings, _engine_settings(engine, settings, most), token_ids, variants)


def _heads(spec: DecoderSpec) -> LayerGeometry:
    """Of every layer.

    Raises:
        ComparisonRefusedError: layers differ.
    """
    layers = [msgspec.structs.replace(layer.kv_geometry(), sliding_window=None) for layer in spec.layers]
    if len(set(layers)) > 1:
        raise ComparisonRefusedError(
            "layers of this model have different numbers of heads: there is no one number to compare", param="model"
        )
    return layers[0]


def _check_length(workload: Workload, spec: DecoderSpec) -> None:
    if workload.request_tokens > spec.max_position_embeddings:
        raise ComparisonRefusedError(
            f"the context of this model holds {spec.max_position_embeddings} tokens, but prompt_tokens is"
            f" {workload.prompt_tokens} and max_tokens {workload.max_tokens}: {workload.request_tokens} together",
            param="prompt_tokens",
        )


def _geometry(spec: DecoderSpec, config: Mapping[str, Any], folder: Path, engine: EngineSettings) -> KVGeometry:
    stored = next((header.dtype for header in read_headers(folder).values()), "")
    dtype = resolve_dtype(engine.model_settings.dtype, config, stored)
    kv_format = KV_FORMATS[resolve_kv_cache_dtype(engine.cache.kv_cache_dtype, dtype)]
    return spec.kv_geometry(kv_format.dtype_bytes, engine.cache.block_size, kv_format.scale_bytes)


def _head_counts(wanted: Sequence[int], heads: LayerGeometry) -> list[int]:
    """The numbers of KV heads, most first, the model's own among them.

    Raises:
        ComparisonRefusedError: one of them cannot be had, or there are too many.
    """
    own, num_q_heads = heads.num_kv_heads, heads.num_q_heads
    counts = sorted({own, *(wanted or (num_q_heads, 1))}, reverse=True)
    for count in counts:
        if num_q_heads % count or (count % own and own % count):
            possible = [n for n in range(num_q_heads, 0, -1) if num_q_heads % n == 0 and (n % own == 0 or own % n == 0)]
            raise ComparisonRefusedError(
                f"{num_q_heads} query heads on {own} key/value heads cannot be had on {count}: possible are"
                f" {', '.join(map(str, possible))}",
                param="num_kv_heads",
            )
    if len(counts) > MAX_VARIANTS:
        raise ComparisonRefusedError(
            f"num_kv_heads: at most {MAX_VARIANTS} variants are compared, got {len(counts)}", param="num_kv_heads"
        )
    return counts


def _plan_variant(
    num_kv_heads: int, source: KVGeometry, heads: LayerGeometry, settings: CompareSettings
) -> PlannedVariant:
    geometry, request_tokens = source.with_num_kv_heads(num_kv_heads), settings.workload.request_tokens
    found = fit(geometry, settings.kv_cache_memory_bytes, request_tokens)
    if found.num_requests < 1:
        raise ComparisonRefusedError(
            f"kv_cache_memory_bytes: one request of {request_tokens} tokens with {num_kv_heads} key/value heads needs"
            f" {geometry.bytes_per_request(request_tokens)} bytes, got {settings.kv_cache_memory_bytes}",
            param="kv_cache_memory_bytes",
        )
    own = heads.num_kv_heads
    return PlannedVariant(
        num_kv_heads=num_kv_heads,
        num_q_heads=heads.num_q_heads,
        attention_type=geometry.attention_type,
        method=SOURCE if num_kv_heads == own else REPEAT if num_kv_heads > own else settings.method,
        kv_bytes_per_token=geometry.bytes_per_token,
        kv_cache_bytes=found.kv_cache_bytes,
        blocks_per_request=geometry.num_blocks(request_tokens),
        num_blocks=found.num_blocks,
        num_tokens=found.num_tokens,
        num_requests=found.num_requests,
    )


def _engine_settings(engine: EngineSettings, settings: CompareSettings, most: int) -> EngineSettings:
    """The same for every variant: its budget, contexts as long as a request, and a place for each that could fit."""
    model = engine.model_settings.model_copy(update={"max_model_len": settings.workload.request_tokens})
    cache = engine.cache.model_copy(
        update={"kv_cache_memory_bytes": settings.kv_cache_memory_bytes, "enable_prefix_cache": True}
    )
    waiting = max(engine.scheduler.max_num_waiting, settings.workload.concurrency)
    scheduler = engine.scheduler.model_copy(update={"max_num_seqs": most + SPARE_PLACES, "max_num_waiting": waiting})
    return EngineSettings(model_settings=model, cache=cache, scheduler=scheduler)
