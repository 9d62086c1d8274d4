"""`headcount bench --offline`: the engine in this process, step by step, over batch sizes and contexts."""

import math
import random
import statistics
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
from rich.console import Console

from engine.dtypes import KV_FORMATS, resolve_dtype, resolve_kv_cache_dtype
from engine.models.spec import DecoderSpec
from engine.request import Request, SamplingParams
from kvcache.geometry import KVGeometry
from server.cli.bench_ceiling import Ceilings, measure_ceilings
from server.cli.bench_report import VERSIONED, command_line
from server.cli.bench_sweep import STEP_TOKENS, SweepOptions
from server.cli.machine import machine_facts, versions_of
from server.load.summary import percentiles

if TYPE_CHECKING:
    from headcount import LLM

NO_PACING = 1000.0
BLOCK_SIZE = 16
POOL_RESERVE = 1.15
"""The KV pool beside what the requests need: the scheduler keeps some blocks free."""


class SweepPoint(msgspec.Struct, frozen=True):
    """One batch size at one context. Figures are medians over rounds, of decode steps over all steps of all rounds.

    Attributes:
        prefill_s: until every request has its first token.
        prefill_flops_per_s: two for each weight that a token is multiplied by; attention is not counted.
        step_s: of a decode step: p50, p90, p95 and p99.
        weight_bytes_per_step: read once for the whole batch.
        kv_bytes_per_step: keys and values that attention reads, of all requests.
        bytes_read_per_token: both together, for each token that a decode step gives.
        read_bytes_per_s: the bytes of a step in the time of the median step.
        bandwidth_utilization: that as a share of what this machine's memory gives (MBU).
    """

    batch_size: int
    context_tokens: int
    prefill_s: float
    prefill_tokens_per_s: float
    prefill_flops_per_s: float
    step_s: dict[str, float]
    decode_tokens_per_s: float
    weight_bytes_per_step: int
    kv_bytes_per_step: int
    bytes_read_per_token: float
    read_bytes_per_s: float
    bandwidth_utilization: float


class Subject(NamedTuple):
    """What is measured: a loaded model, its spec, and the machine that it is on."""

    llm: "LLM"
    spec: DecoderSpec
    ceilings: Ceilings


class Round(msgspec.Struct, frozen=True):
    """Times of one prefill and the decode steps after it, and the KV bytes that those read."""

    prefill_s: float
    steps_s: list[float]
    kv_read_bytes: int


def load_for_sweep(model: str, options: SweepOptions) -> Subject:
    """Measure the machine, then load the model with a KV pool that holds every batch at every context.

    Raises:
        CheckpointError, EngineError: the model cannot be loaded, or a context is longer than it takes.
    """
    from checkpoints.headers import read_config, read_headers
    from checkpoints.resolve import resolve_model
    from engine.models.registry import load_spec
    from headcount import LLM

    ceilings = measure_ceilings()
    folder = resolve_model(model)
    config = read_config(folder)
    spec, stored = load_spec(config), next((header.dtype for header in read_headers(folder).values()), "")
    kv_format = KV_FORMATS[resolve_kv_cache_dtype(options.kv_cache_dtype, resolve_dtype(options.dtype, config, stored))]
    geometry = spec.kv_geometry(kv_format.dtype_bytes, BLOCK_SIZE, kv_format.scale_bytes)
    llm = LLM(
        str(folder),
        dtype=options.dtype,
        kv_cache_dtype=options.kv_cache_dtype,
        num_threads=options.num_threads,
        max_model_len=options.max_model_len,
        block_size=BLOCK_SIZE,
        max_num_seqs=max(options.batch_sizes),
        max_num_batched_tokens=STEP_TOKENS,
        max_decode_slowdown=NO_PACING,
        kv_cache_memory_bytes=_pool_bytes(geometry, options),
        enable_prefix_cache=False,
    )
    return Subject(llm, spec, ceilings)


def _pool_bytes(geometry: KVGeometry, options: SweepOptions) -> int:
    return round(POOL_RESERVE * (max(options.batch_sizes) + 1) * geometry.bytes_per_request(options.max_model_len))


def measure_point(subject: Subject, batch_size: int, context_tokens: int, options: SweepOptions) -> SweepPoint:
    """One batch size at one context: a round that warms up, and those that count."""
    llm, spec, ceilings = subject
    rounds = [_measure_round(llm, batch_size, context_tokens, options.decode_steps) for _ in range(options.rounds + 1)]
    counted = rounds[1:]
    steps_s = percentiles([seconds for one in counted for seconds in one.steps_s])
    prefill_s = statistics.median(one.prefill_s for one in counted)
    prefill_rate = batch_size * context_tokens / prefill_s
    weight_bytes = _weight_bytes(llm, spec, batch_size)
    kv_bytes = counted[0].kv_read_bytes // options.decode_steps
    read_rate = (weight_bytes + kv_bytes) / steps_s["p50"]
    return SweepPoint(
        batch_size=batch_size,
        context_tokens=context_tokens,
        prefill_s=prefill_s,
        prefill_tokens_per_s=prefill_rate,
        prefill_flops_per_s=2 * _num_multiplied(spec) * prefill_rate,
        step_s=steps_s,
        decode_tokens_per_s=batch_size / steps_s["p50"],
        weight_bytes_per_step=weight_bytes,
        kv_bytes_per_step=kv_bytes,
        bytes_read_per_token=(weight_bytes + kv_bytes) / batch_size,
        read_bytes_per_s=read_rate,
        bandwidth_utilization=read_rate / ceilings.read_bytes_per_s,
    )


def _num_multiplied(spec: DecoderSpec) -> int:
    """Weights that each token of a prompt is multiplied by: not the tables, nor the head, which few positions need."""
    tables = (
        math.prod(shape)
        for name, shape in spec.parameter_shapes().items()
        if name.endswith(("embed.weight", "lm_head.weight"))
    )
    return spec.num_active_parameters() - sum(tables)


def _weight_bytes(llm: "LLM", spec: DecoderSpec, num_tokens: int) -> int:
    """Of the weights as they are loaded, in whatever format, the part that a step reads."""
    share = spec.num_read_parameters(num_tokens) / spec.num_parameters()
    return round(llm.info.ledger.weights_bytes * share)


def _measure_round(llm: "LLM", batch_size: int, context_tokens: int, decode_steps: int) -> Round:
    """Prefill a batch, then take `decode_steps` steps in which every request decodes; nothing is left behind."""
    core, draw = llm.core, random.Random(0)  # noqa: S311  prompts are no secret
    # Early ones decode while later ones are prefilled: no request may end before the last one has begun.
    params = SamplingParams(temperature=0, max_tokens=llm.info.max_model_len - context_tokens, ignore_eos=True)
    waiting = {f"bench-{index}" for index in range(batch_size)}
    for request_id in sorted(waiting):
        prompt = draw.choices(range(llm.info.vocab_size), k=context_tokens)
        core.add(Request(request_id=request_id, prompt_token_ids=prompt, sampling_params=params))
    everyone = set(waiting)
    started_s = time.perf_counter()
    while waiting:
        waiting -= {delta.request_id for delta in core.step() if delta.token_ids}
    prefill_s = time.perf_counter() - started_s
    read_before = core.take_stats().kv_read_bytes
    steps_s = [_step_s(llm) for _ in range(decode_steps)]
    read_bytes = core.take_stats().kv_read_bytes - read_before
    for request_id in everyone:
        core.abort(request_id)
    return Round(prefill_s, steps_s, read_bytes)


def _step_s(llm: "LLM") -> float:
    started_s = time.perf_counter()
    llm.core.step()
    return time.perf_counter() - started_s


class OfflineReport(msgspec.Struct, frozen=True):
    """A sweep, with what is needed to judge and to repeat it.

    Attributes:
        model: facts of the loaded engine.
        ceilings: of this machine; a step that reads its bytes at `read_bytes_per_s` cannot be faster.
    """

    command: str
    time: str
    model: dict[str, Any]
    sweep: dict[str, Any]
    machine: dict[str, Any]
    versions: dict[str, str]
    ceilings: Ceilings
    points: list[SweepPoint]


def run_offline(model: str, options: SweepOptions) -> OfflineReport:
    """Measure the machine, then the model.

    Raises:
        CheckpointError, EngineError: the model cannot be loaded, or a context is longer than it takes.
    """
    subject = load_for_sweep(model, options)
    return OfflineReport(
        command=command_line(),
        time=datetime.now(UTC).isoformat(timespec="seconds"),
        model=_facts(model, subject.llm),
        sweep=options.model_dump(),
        machine=machine_facts(),
        versions=versions_of(VERSIONED),
        ceilings=subject.ceilings,
        points=list(_sweep(subject, options)),
    )


def _sweep(subject: Subject, options: SweepOptions) -> Iterator[SweepPoint]:
    with Console(stderr=True).status("") as status:
        for context_tokens in options.contexts:
            for batch_size in options.batch_sizes:
                status.update(f"batch {batch_size}, {context_tokens:,} tokens of context")
                yield measure_point(subject, batch_size, context_tokens, options)


def _facts(model: str, llm: "LLM") -> dict[str, Any]:
    info = llm.info
    return {
        "name": model,
        "architecture": info.architecture,
        "attention_type": info.geometry.attention_type,
        "num_kv_heads": sorted({layer.num_kv_heads for layer in info.geometry.layers}),
        "dtype": info.dtype,
        "kv_cache_dtype": info.kv_cache_dtype,
        "attention_backend": info.attention_backend,
        "weights_bytes": info.ledger.weights_bytes,
        "kv_bytes_per_token": info.geometry.bytes_per_token,
    }
