"""What a model will need, from its config and the headers of its weights: pure arithmetic, nothing is loaded.

The running server computes the same numbers from the same spec and geometry; a test holds the two together.
"""

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from checkpoints.headers import TensorHeader, read_config, read_headers
from engine.dtypes import DTYPE_BYTES, KV_FORMATS, resolve_dtype, resolve_kv_cache_dtype
from engine.models import describe
from engine.models.registry import load_spec
from engine.models.sharding import per_rank, possible_degrees
from engine.models.spec import DecoderSpec, LayerSpec
from engine.quantization import weights_bytes
from engine.workspace import Method, StepSize, workspace_bytes
from kvcache.geometry import KVGeometry
from server.kv_plan import fit

MIB = 1 << 20

FEWEST_BATCHED_TOKENS = 64
"""A smaller budget of a step is no remedy: prompts would take for ever."""


class LayerGroup(msgspec.Struct, frozen=True):
    """Layers whose attention is the same.

    Attributes:
        num_layers: how many.
        sliding_window: tokens that each looks back on, its own included; None: all.
    """

    num_layers: int
    attention_type: str
    num_q_heads: int
    num_kv_heads: int
    k_head_dim: int
    v_head_dim: int
    sliding_window: int | None


class PlanRow(msgspec.Struct, frozen=True):
    """The model with one number of key/value heads on so many devices, and what fits on each.

    Attributes:
        label: `actual` for the model as it is, `what-if` for the others.
        num_kv_heads: in every layer; None where layers differ.
        tensor_parallel: devices; all bytes are those of one.
        workspace_bytes: of the largest step.
        num_tokens: tokens whose keys and values fit beside weights and workspace, in whole blocks.
        num_requests: requests of the plan's context that fit at the same time.
        longest_context: tokens of the longest single request that fits; the model's own limit is another matter.
    """

    label: str
    attention_type: str
    num_kv_heads: int | None
    tensor_parallel: int
    weights_bytes: int
    workspace_bytes: int
    kv_bytes_per_token: int
    kv_bytes_per_request: int
    kv_cache_bytes: int
    num_blocks: int
    num_tokens: int
    num_requests: int
    longest_context: int


class Advice(msgspec.Struct, frozen=True):
    """The one flag that makes a plan fit.

    Attributes:
        flag: of `headcount serve`, but --memory and --tensor-parallel, which are more or larger devices.
    """

    flag: str
    value: str


class Plan(msgspec.Struct, frozen=True):
    """What a model needs, and what fits in `memory_bytes`.

    Attributes:
        heads: query heads on key/value heads, for people.
        layers: those that are alike together, most first.
        weights_bytes: as loaded; a checkpoint of another dtype takes `checkpoint_bytes` on disk.
        context_tokens: the tokens of one request, prompt and output.
        rows: most key/value heads first.
        tensor_parallel_rows: the model as it is on more and more devices.
        fits: one request of the context does, beside weights and workspace.
        advice: where it does not, what would help; None where no single flag does.
        least_memory_bytes: in which a request of the context fits, all else being equal; in whole MiB.
    """

    model: str
    architecture: str
    attention_type: str
    num_layers: int
    heads: str
    head_dim: str
    layers: list[LayerGroup]
    dtype: str
    kv_cache_dtype: str
    quantization: str
    max_model_len: int
    num_parameters: int
    checkpoint_bytes: int
    weights_bytes: int
    kv_bytes_per_token: int
    kv_bytes_per_block: int
    block_size: int
    memory_bytes: int
    context_tokens: int
    workspace_bytes: int
    rows: list[PlanRow]
    tensor_parallel_rows: list[PlanRow]
    fits: bool
    least_memory_bytes: int
    advice: Advice | None = None


class Assumptions(msgspec.Struct, frozen=True):
    """What a plan is made for.

    Attributes:
        memory_bytes: of a device: for weights, workspace and KV cache.
        dtype: `auto` or a number format.
        context_tokens: None for the longest context of the model.
        kv_cache_dtype: `auto` for the model's, or a format of 8 bits.
        quantization: of the weights, `none` or `int8`.
    """

    memory_bytes: int
    dtype: str
    context_tokens: int | None
    block_size: int
    kv_cache_dtype: str = "auto"
    quantization: str = "none"
    device: str = "cpu"
    max_num_batched_tokens: int = 2048
    max_num_seqs: int = 64
    tensor_parallel: int = 1


def plan_folder(model: str, folder: Path, assumptions: Assumptions) -> Plan:
    """The plan of a checkpoint, under the name `model`.

    Raises:
        CheckpointError: the folder is no readable checkpoint.
        ModelLoadError: its architecture is not supported.
    """
    return make_plan(model, read_config(folder), read_headers(folder), assumptions)


def make_plan(
    model: str, config: Mapping[str, Any], headers: Mapping[str, TensorHeader], assumptions: Assumptions
) -> Plan:
    """The plan of a model from the content of its config.json and its tensors' headers."""
    spec = load_spec(config)
    stored = next((header.dtype for header in headers.values()), "")
    made = _plan(model, spec, resolve_dtype(assumptions.dtype, config, stored), headers, assumptions)
    if made.fits:
        return made
    for flag, value, changed in _remedies(spec, made, assumptions):
        dtype = resolve_dtype(changed.dtype, config, stored)
        if _plan(model, spec, dtype, headers, changed).fits:
            return msgspec.structs.replace(made, advice=Advice(flag, value))
    return made


def _plan(
    model: str, spec: DecoderSpec, dtype: str, headers: Mapping[str, TensorHeader], assumptions: Assumptions
) -> Plan:
    geometry = _geometry(spec, dtype, assumptions)
    context_tokens = assumptions.context_tokens or spec.max_position_embeddings
    rows = _rows(spec, dtype, context_tokens, assumptions)
    actual = next(row for row in rows if row.label == "actual")
    return Plan(
        model=model,
        architecture=spec.architecture,
        attention_type=geometry.attention_type,
        num_layers=spec.num_layers,
        heads=describe.heads(spec),
        head_dim=describe.head_dim(spec),
        layers=group_layers(spec),
        dtype=dtype,
        kv_cache_dtype=resolve_kv_cache_dtype(assumptions.kv_cache_dtype, dtype),
        max_model_len=spec.max_position_embeddings,
        num_parameters=spec.num_parameters(),
        checkpoint_bytes=sum(header.nbytes for header in headers.values()),
        quantization=assumptions.quantization,
        weights_bytes=weights_bytes(spec, DTYPE_BYTES[dtype], assumptions.quantization),
        kv_bytes_per_token=geometry.bytes_per_token,
        kv_bytes_per_block=geometry.bytes_per_block,
        block_size=assumptions.block_size,
        memory_bytes=assumptions.memory_bytes,
        context_tokens=context_tokens,
        workspace_bytes=actual.workspace_bytes,
        rows=rows,
        tensor_parallel_rows=[
            _row("actual", spec, dtype, context_tokens, msgspec.structs.replace(assumptions, tensor_parallel=degree))
            for degree in possible_degrees(spec)
        ],
        fits=actual.longest_context >= context_tokens,
        least_memory_bytes=_least_memory(spec, dtype, context_tokens, assumptions),
    )


def _least_memory(spec: DecoderSpec, dtype: str, context_tokens: int, assumptions: Assumptions) -> int:
    """More memory lets longer contexts in, and those may need more workspace: so more is tried until it is enough."""
    geometry = _geometry(per_rank(spec, assumptions.tensor_parallel), dtype, assumptions)
    num_blocks = geometry.num_blocks(context_tokens, assumptions.max_num_batched_tokens)
    memory_bytes = 0
    while True:
        row = _row("", spec, dtype, context_tokens, msgspec.structs.replace(assumptions, memory_bytes=memory_bytes))
        if row.longest_context >= context_tokens:
            return memory_bytes
        needed = row.weights_bytes + row.workspace_bytes + num_blocks * geometry.bytes_per_block
        memory_bytes = max(-(-needed // MIB), memory_bytes // MIB + 1) * MIB


def _remedies(spec: DecoderSpec, made: Plan, given: Assumptions) -> Iterator[tuple[str, str, Assumptions]]:
    """(flag, value, the assumptions with it): what might make a plan fit, the least painful first."""
    replace = msgspec.structs.replace
    for num_tokens in itertools.takewhile(lambda n: n >= FEWEST_BATCHED_TOKENS, _halves(given.max_num_batched_tokens)):
        yield "--max-num-batched-tokens", str(num_tokens), replace(given, max_num_batched_tokens=num_tokens)
    if DTYPE_BYTES[made.dtype] > DTYPE_BYTES["bfloat16"]:
        yield "--dtype", "bfloat16", replace(given, dtype="bfloat16")
    longest = next(row for row in made.rows if row.label == "actual").longest_context
    if longest >= 1 and given.context_tokens is None:
        yield "--max-model-len", str(longest), replace(given, context_tokens=longest)
    if made.kv_cache_dtype == made.dtype:
        yield "--kv-cache-dtype", "int8", replace(given, kv_cache_dtype="int8")
    if given.quantization == "none" and given.device == "cpu":
        yield "--quantization", "int8", replace(given, quantization="int8")
    for degree in possible_degrees(spec):
        if degree > given.tensor_parallel:
            yield "--tensor-parallel", str(degree), replace(given, tensor_parallel=degree)
    if longest >= 1:
        yield "--max-model-len", str(longest), replace(given, context_tokens=longest)


def _halves(number: int) -> Iterator[int]:
    while number > 1:
        number //= 2
        yield number


def group_layers(spec: DecoderSpec) -> list[LayerGroup]:
    """The layers of a model by their attention, most first."""

    def attention_of(layer: LayerSpec) -> tuple[Any, ...]:
        geometry = layer.kv_geometry()
        return geometry.attention_type, *msgspec.structs.astuple(geometry)

    counts = Counter(map(attention_of, spec.layers))
    return [LayerGroup(count, *attention) for attention, count in counts.most_common()]


def _geometry(spec: DecoderSpec, dtype: str, assumptions: Assumptions) -> KVGeometry:
    kv_format = KV_FORMATS[resolve_kv_cache_dtype(assumptions.kv_cache_dtype, dtype)]
    return spec.kv_geometry(kv_format.dtype_bytes, assumptions.block_size, kv_format.scale_bytes)


def _rows(spec: DecoderSpec, dtype: str, context_tokens: int, assumptions: Assumptions) -> list[PlanRow]:
    counts = [geometry.layers[0].num_kv_heads for geometry in _geometry(spec, dtype, assumptions).what_if()]
    variants = {count: with_num_kv_heads(spec, count) for count in counts}
    rows = [
        _row("actual" if variant == spec else "what-if", variant, dtype, context_tokens, assumptions)
        for variant in variants.values()
    ]
    if spec not in variants.values():
        rows.insert(0, _row("actual", spec, dtype, context_tokens, assumptions))
    return rows


def with_num_kv_heads(spec: DecoderSpec, num_kv_heads: int) -> DecoderSpec:
    """The same model with another number of key/value heads in every layer: key and value projections change with it."""
    layers = tuple(msgspec.structs.replace(layer, num_kv_heads=num_kv_heads) for layer in spec.layers)
    return msgspec.structs.replace(spec, layers=layers)


def _row(label: str, whole: DecoderSpec, dtype: str, context_tokens: int, assumptions: Assumptions) -> PlanRow:
    counts = {layer.num_kv_heads for layer in whole.layers}
    spec = per_rank(whole, assumptions.tensor_parallel)
    geometry = _geometry(spec, dtype, assumptions)
    held_bytes = weights_bytes(spec, DTYPE_BYTES[dtype], assumptions.quantization)
    left_bytes = assumptions.memory_bytes - held_bytes
    needed = _workspace_bytes(spec, dtype, geometry, left_bytes, assumptions)
    found = fit(geometry, left_bytes - needed, context_tokens, assumptions.max_num_batched_tokens)
    return PlanRow(
        label=label,
        attention_type=geometry.attention_type,
        num_kv_heads=counts.pop() if len(counts) == 1 else None,
        tensor_parallel=assumptions.tensor_parallel,
        weights_bytes=held_bytes,
        workspace_bytes=needed,
        kv_bytes_per_token=geometry.bytes_per_token,
        kv_bytes_per_request=geometry.bytes_per_request(context_tokens),
        **msgspec.structs.asdict(found),
    )


def _workspace_bytes(
    spec: DecoderSpec, dtype: str, geometry: KVGeometry, memory_bytes: int, assumptions: Assumptions
) -> int:
    """Of the largest step, as engine.loading sizes it: at the longest context that fits if a step needs nothing."""
    chunk = assumptions.max_num_batched_tokens
    context = min(spec.max_position_embeddings, geometry.longest_context_in(memory_bytes, chunk))
    size = StepSize(
        num_tokens=chunk,
        num_seqs=assumptions.max_num_seqs,
        max_model_len=max(1, context),
        num_kv_tokens=geometry.num_tokens_in(memory_bytes, max(1, context)),
    )
    method = Method.predict(
        spec, dtype, assumptions.device, assumptions.kv_cache_dtype, quantization=assumptions.quantization
    )
    return workspace_bytes(spec, size, method, assumptions.block_size)
