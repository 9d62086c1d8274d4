"""All layers in one call: bit by bit what the kernels give one after the other, and close to the reference."""

from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import pytest
import torch
from torch import Tensor

from engine.attention.base import AttentionBackend
from engine.attention.cpu import CpuBackend
from engine.attention.reference import ReferenceBackend
from engine.batch import build_batch
from engine.kernels import cpu, reference
from engine.kernels.base import Kernels, PagedStep
from engine.kernels.coverage import can_fuse
from engine.models.decoder import Decoder
from engine.models.spec import (
    Activation,
    DecoderSpec,
    HeadSpec,
    LayerSpec,
    LinearScaling,
    MLPSpec,
    MoESpec,
    NormKind,
    NormSpec,
    QKNormSpec,
    RopeSpec,
)
from engine.quantization import quantized_weights, scale_name
from engine.request import Request, SamplingParams, ScheduledBatch, ScheduledRequest
from engine.weights import pack_weights
from kvcache.storage import EIGHT_BIT_DTYPES, SCALE_DTYPE, KVStorage
from tests.engine.kernels.rounding import DTYPES

BLOCK_SIZE = 4
Native = Callable[[torch.dtype], cpu.CpuKernels]


class LayerByLayer(cpu.CpuKernels):
    """The native kernels, called from Python."""

    def compile_layers(self, spec: DecoderSpec, parameters: Mapping[str, Tensor]) -> None:
        return None


MLP = MLPSpec(56, Activation.SILU, is_gated=True, has_bias=True)
LAYER = LayerSpec(
    *(6, 2, 16, 16),
    softmax_scale=0.25,
    mlp=MLP,
    rope=RopeSpec(theta=100.0, rotary_dim=16),
    has_qkv_bias=True,
    has_o_bias=True,
)
OTHER_HEADS = {"num_q_heads": 4, "num_kv_heads": 1, "v_head_dim": 24, "sliding_window": 5}


NORM = NormSpec(NormKind.RMS, 1e-5)


def make_spec(norm: NormSpec = NORM, *, other: dict[str, Any] = OTHER_HEADS, **changes: Any) -> DecoderSpec:
    """Two layers, every bias; `changes` are fields of both, `other` what the second has otherwise."""
    first = msgspec.structs.replace(LAYER, **changes)
    return DecoderSpec(
        architecture="Test",
        vocab_size=50,
        hidden_size=40,
        max_position_embeddings=64,
        layers=(first, msgspec.structs.replace(first, **other)),
        norm=norm,
        head=HeadSpec(is_tied=True, norm=norm),
    )


def make_parameters(spec: DecoderSpec, dtype: torch.dtype) -> dict[str, Tensor]:
    torch.manual_seed(0)
    return {name: (0.3 * torch.randn(shape)).to(dtype) for name, shape in spec.parameter_shapes().items()}


def hidden_states(
    spec: DecoderSpec,
    parameters: dict[str, Tensor],
    kernels: Kernels,
    backend: type[AttentionBackend],
    kv_dtype: torch.dtype | None = None,
    *,
    quantization: str = "none",
) -> Tensor:
    """Two steps: a ragged prefill, then one token of each with a new prompt beside them."""
    dtype, device = parameters["embed.weight"].dtype, torch.device("cpu")
    kept = kv_dtype or dtype
    geometry = spec.kv_geometry(kept.itemsize, BLOCK_SIZE, SCALE_DTYPE.itemsize if kv_dtype else 0)
    storage = KVStorage(geometry, 40 * len(geometry.groups), kept, device)
    packed = {name: tensor.clone() for name, tensor in parameters.items()}
    for name in quantized_weights(spec, quantization):
        packed[name], packed[scale_name(name)] = kernels.quantize_weight(packed[name])
    pack_weights(spec, packed, kernels)
    decoder, attention = Decoder(spec, packed, 64, kernels, dtype), backend(spec, storage)
    prompts = [[i % 50 for i in range(length)] for length in (17, 1, 6)]
    requests = [
        Request(request_id=str(i), prompt_token_ids=[*ids, 7], sampling_params=SamplingParams())
        for i, ids in enumerate([*prompts, [3] * 11])
    ]
    tables = [
        [list(range(40 * group + start, 40 * group + start + 10)) for group in range(len(geometry.groups))]
        for start in (30, 0, 20, 10)
    ]
    first = [ScheduledRequest(requests[i], 0, len(ids), tables[i]) for i, ids in enumerate(prompts)]
    second = [ScheduledRequest(requests[i], len(ids), 1, tables[i]) for i, ids in enumerate(prompts)]
    second.append(ScheduledRequest(requests[3], 0, 12, tables[3]))
    results = []
    for items in (first, second):
        batch = build_batch(ScheduledBatch(items), BLOCK_SIZE, device)
        attention.plan(batch)
        results.append(decoder(batch, attention))
    return torch.cat(results)


SPECS = {
    "all": {},
    "no-rope": {"rope": None},
    "partial-rope": {"rope": RopeSpec(theta=100.0, rotary_dim=8)},
    "scaled-rope": {"rope": RopeSpec(theta=100.0, rotary_dim=16, scaling=LinearScaling(4.0), attention_factor=1.2)},
    "plain-mlp": {"mlp": MLPSpec(56, Activation.RELU, is_gated=False, has_bias=False)},
    "two-block-tables": {"other": {"sliding_window": 5}},
    "no-biases": {"has_qkv_bias": False, "has_o_bias": False},
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", SPECS)
def test_equals_the_kernels_one_by_one(name: str, dtype: torch.dtype, native: Native) -> None:
    spec = make_spec(**SPECS[name])
    parameters = make_parameters(spec, dtype)
    assert can_fuse(spec)
    for quantization in ("none", "int8"):
        together = hidden_states(spec, parameters, native(dtype), CpuBackend, quantization=quantization)
        assert torch.equal(
            together, hidden_states(spec, parameters, LayerByLayer(dtype), CpuBackend, quantization=quantization)
        )


@pytest.mark.parametrize("name", SPECS)
def test_is_close_to_the_reference(name: str, native: Native) -> None:
    spec = make_spec(**SPECS[name])
    parameters = make_parameters(spec, torch.float32)
    out = hidden_states(spec, parameters, native(torch.float32), CpuBackend)
    exact = hidden_states(
        spec, {name: value.double() for name, value in parameters.items()}, reference, ReferenceBackend
    )
    torch.testing.assert_close(out.double(), exact, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("kv_dtype", EIGHT_BIT_DTYPES, ids=str)
@pytest.mark.parametrize("name", ["all", "two-block-tables"])
def test_over_a_cache_of_8_bits(name: str, kv_dtype: torch.dtype, native: Native) -> None:
    spec = make_spec(**SPECS[name])
    for dtype in DTYPES:
        parameters = make_parameters(spec, dtype)
        together = hidden_states(spec, parameters, native(dtype), CpuBackend, kv_dtype)
        assert torch.equal(together, hidden_states(spec, parameters, LayerByLayer(dtype), CpuBackend, kv_dtype))
    parameters = make_parameters(spec, torch.float32)
    exact = hidden_states(spec, parameters, reference, ReferenceBackend, kv_dtype)
    out = hidden_states(spec, parameters, native(torch.float32), CpuBackend, kv_dtype)
    # A number that lies between two of the format's may be rounded the other way.
    assert (out - exact).norm() <= 5e-3 * exact.norm()


SCORING: dict[str, dict[str, Any]] = {
    "soft-cap": {"softcap": 2.0},
    "ALiBi": {"alibi_slopes": (0.5, 0.25, 0.125, 0.1, 0.05, 0.02)},
    "sinks": {"has_sinks": True},
}


@pytest.mark.parametrize("name", SCORING)
def test_attention_of_other_models_is_native_layer_by_layer(name: str, native: Native) -> None:
    spec = make_spec(other={"sliding_window": 5}, **SCORING[name])
    parameters = make_parameters(spec, torch.float32)
    out = hidden_states(spec, parameters, native(torch.float32), CpuBackend)
    wide = {name: value.double() for name, value in parameters.items()}
    exact = hidden_states(spec, wide, reference, ReferenceBackend)
    torch.testing.assert_close(out.double(), exact, atol=2e-5, rtol=2e-5)
    plain = hidden_states(make_spec(other={"sliding_window": 5}), parameters, native(torch.float32), CpuBackend)
    assert (out - plain).abs().max() > 1e-3


def test_what_the_native_layers_do_not_know_runs_layer_by_layer() -> None:
    class NewLayerSpec(LayerSpec, frozen=True):
        new_feature: float | None = None

    new_layer = NewLayerSpec(**msgspec.structs.asdict(LAYER))
    spec = make_spec()
    assert can_fuse(spec)
    assert can_fuse(msgspec.structs.replace(spec, layers=(new_layer,)))
    assert not can_fuse(msgspec.structs.replace(spec, layers=(msgspec.structs.replace(new_layer, new_feature=30.0),)))


UNKNOWN: dict[str, dict[str, Any]] = {
    "layer-norm": {"norm": NormSpec(NormKind.LAYER, 1e-5)},
    "norm-without-weight": {"norm": NormSpec(NormKind.RMS, 1e-5, has_weight=False)},
    "norm-offset": {"norm": NormSpec(NormKind.RMS, 1e-5, weight_offset=1.0)},
    "activation": {"mlp": MLPSpec(56, Activation.GELU, is_gated=True)},
    "experts": {"mlp": MoESpec(4, 2, MLP)},
    "interleaved-rope": {"rope": RopeSpec(100.0, 16, is_interleaved=True)},
    "soft-cap": {"softcap": 30.0},
    "qk-norm": {"qk_norm": QKNormSpec(NormSpec(NormKind.RMS, 1e-5))},
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_a_feature_that_is_not_in_c_runs_layer_by_layer(name: str) -> None:
    assert not can_fuse(make_spec(**UNKNOWN[name]))


def test_layers_that_differ_in_rope_or_activation_run_layer_by_layer() -> None:
    for change in ({"rope": None}, {"mlp": MLPSpec(56, Activation.RELU, is_gated=True)}):
        layers = (LAYER, msgspec.structs.replace(LAYER, **change))
        assert not can_fuse(msgspec.structs.replace(make_spec(), layers=layers))


def test_what_does_not_fit_is_refused(native: Native) -> None:
    kernels, spec = native(torch.float32), make_spec()
    parameters = make_parameters(spec, torch.float32)
    with pytest.raises(ValueError, match=r"layers\.0\.o\.weight: expected contiguous torch\.float32"):
        kernels.compile_layers(spec, {**parameters, "layers.0.o.weight": torch.zeros(40, 97)})
    with pytest.raises(ValueError, match=r"layers\.1\.qkv\.bias"):
        kernels.compile_layers(spec, {**parameters, "layers.1.qkv.bias": torch.zeros(152, dtype=torch.float64)})
    numbers, scale = kernels.quantize_weight(parameters["layers.0.down.weight"])
    quantized = {**parameters, "layers.0.down.weight": numbers, "layers.0.down.scale": scale[:, :0]}
    with pytest.raises(ValueError, match=r"layers\.0\.down\.scale: expected contiguous torch\.bfloat16"):
        kernels.compile_layers(spec, quantized)
    with pytest.raises(ValueError, match=r"layers\.0\.down\.weight"):
        kernels.compile_layers(spec, {**parameters, "layers.0.down.weight": numbers})


def paged_step(spec: DecoderSpec, num_tokens: int) -> PagedStep:
    """One sequence of that many tokens."""
    geometry = spec.kv_geometry(4, BLOCK_SIZE)
    storage = KVStorage(geometry, 8, torch.float32, torch.device("cpu"))
    caches = [storage.layer(layer_idx) for layer_idx in range(spec.num_layers)]
    groups = len(geometry.groups)
    slots, tables = torch.arange(num_tokens).expand(groups, -1), torch.arange(4).expand(groups, 1, -1)
    lens = torch.tensor([0, num_tokens]), torch.tensor([num_tokens])
    return PagedStep(caches, geometry.group_indices, slots.contiguous(), tables.contiguous(), *lens)


def test_a_step_that_does_not_fit_is_refused(native: Native) -> None:
    spec = make_spec()
    layers = native(torch.float32).compile_layers(spec, make_parameters(spec, torch.float32))
    assert layers is not None
    x, angles, step = torch.zeros(5, 40), (torch.ones(5, 8), torch.zeros(5, 8)), paged_step(spec, 5)
    assert layers(x, angles, step).isfinite().all()
    eight_bit = [cache._replace(k=cache.k.to(torch.int8)) for cache in step.caches]
    for name, call in {
        "x: expected": lambda: layers(x.double(), angles, step),
        "x: expected contiguous": lambda: layers(torch.zeros(40, 5).t(), angles, step),
        "angles: expected": lambda: layers(x, None, step),
        "cos: expected": lambda: layers(x, (torch.ones(5, 4), angles[1]), step),
        "sin: expected": lambda: layers(x, (angles[0], angles[1].double()), step),
        "slot_mapping: expected": lambda: layers(x, angles, step._replace(slot_mapping=step.slot_mapping[:, :4])),
        "block_tables: expected": lambda: layers(x, angles, step._replace(block_tables=step.block_tables.int())),
        "cu_seqlens_q: expected offsets": lambda: layers(x, angles, step._replace(cu_seqlens_q=torch.tensor([0, 6]))),
        "cu_seqlens_q: expected cont": lambda: layers(x, angles, step._replace(cu_seqlens_q=torch.zeros(2))),
        "seq_lens: expected": lambda: layers(x, angles, step._replace(seq_lens=torch.tensor([5, 5]))),
        "cache.v: expected contiguous torch.int8": lambda: layers(x, angles, step._replace(caches=eight_bit)),
    }.items():
        with pytest.raises(ValueError, match=name):
            call()


def test_a_backend_that_has_not_planned_says_so(native: Native) -> None:
    native(torch.float32)
    spec = make_spec()
    storage = KVStorage(spec.kv_geometry(4, BLOCK_SIZE), 2, torch.float32, torch.device("cpu"))
    with pytest.raises(RuntimeError, match="before it planned"):
        _ = CpuBackend(spec, storage).paged_step
