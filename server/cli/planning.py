"""What a model will need, from its config and the headers of its weights: pure arithmetic, nothing is loaded.

The running server computes the same numbers from the same spec and geometry; a test holds the two together.
"""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from checkpoints.headers import TensorHeader, read_config, read_headers
from engine.dtypes import DTYPE_BYTES, KV_FORMATS, resolve_dtype, resolve_kv_cache_dtype
from engine.models import describe
from engine.models.registry import load_spec
from engine.models.spec import DecoderSpec, LayerSpec
from kvcache.geometry import KVGeometry


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
    """The model with one number of key/value heads, and what fits.

    Attributes:
        label: `actual` for the model as it is, `what-if` for the others.
        num_kv_heads: in every layer; None where layers differ.
        num_tokens: tokens whose keys and values fit beside the weights, in whole blocks.
        num_requests: requests of the plan's context that fit at the same time.
    """

    label: str
    attention_type: str
    num_kv_heads: int | None
    weights_bytes: int
    kv_bytes_per_token: int
    kv_bytes_per_request: int
    kv_cache_bytes: int
    num_blocks: int
    num_tokens: int
    num_requests: int


class Plan(msgspec.Struct, frozen=True):
    """What a model needs, and what fits in `memory_bytes`.

    Attributes:
        heads: query heads on key/value heads, for people.
        layers: those that are alike together, most first.
        weights_bytes: as loaded; a checkpoint of another dtype takes `checkpoint_bytes` on disk.
        context_tokens: the tokens of one request, prompt and output.
        rows: most key/value heads first.
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
    max_model_len: int
    num_parameters: int
    checkpoint_bytes: int
    weights_bytes: int
    kv_bytes_per_token: int
    kv_bytes_per_block: int
    block_size: int
    memory_bytes: int
    context_tokens: int
    rows: list[PlanRow]


class Assumptions(msgspec.Struct, frozen=True):
    """What a plan is made for.

    Attributes:
        memory_bytes: holds the weights and the KV cache.
        dtype: `auto` or a number format.
        context_tokens: None for the longest context of the model.
        kv_cache_dtype: `auto` for the model's, or a format of 8 bits.
    """

    memory_bytes: int
    dtype: str
    context_tokens: int | None
    block_size: int
    kv_cache_dtype: str = "auto"


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
    dtype = resolve_dtype(assumptions.dtype, config, next((header.dtype for header in headers.values()), ""))
    geometry = _geometry(spec, dtype, assumptions)
    context_tokens = assumptions.context_tokens or spec.max_position_embeddings
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
        weights_bytes=spec.num_parameters() * DTYPE_BYTES[dtype],
        kv_bytes_per_token=geometry.bytes_per_token,
        kv_bytes_per_block=geometry.bytes_per_block,
        block_size=assumptions.block_size,
        memory_bytes=assumptions.memory_bytes,
        context_tokens=context_tokens,
        rows=_rows(spec, dtype, context_tokens, assumptions),
    )


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


def _row(label: str, spec: DecoderSpec, dtype: str, context_tokens: int, assumptions: Assumptions) -> PlanRow:
    geometry = _geometry(spec, dtype, assumptions)
    weights_bytes = spec.num_parameters() * DTYPE_BYTES[dtype]
    num_blocks = geometry.num_blocks_in(assumptions.memory_bytes - weights_bytes)
    kv_cache_bytes = num_blocks * geometry.bytes_per_block
    counts = {layer.num_kv_heads for layer in spec.layers}
    return PlanRow(
        label=label,
        attention_type=geometry.attention_type,
        num_kv_heads=counts.pop() if len(counts) == 1 else None,
        weights_bytes=weights_bytes,
        kv_bytes_per_token=geometry.bytes_per_token,
        kv_bytes_per_request=geometry.bytes_per_request(context_tokens),
        kv_cache_bytes=kv_cache_bytes,
        num_blocks=num_blocks,
        num_tokens=geometry.num_tokens_in(kv_cache_bytes, context_tokens),
        num_requests=geometry.num_requests_in(kv_cache_bytes, context_tokens),
    )
