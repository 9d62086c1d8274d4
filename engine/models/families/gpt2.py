"""GPT-2: multi-head attention, learned positions, LayerNorm, biases everywhere, weights stored as [in, out]."""

from engine.models.config_fields import Config, activation, field, head_width, positive
from engine.models.family import Family, WeightMap, WeightSource
from engine.models.spec import DecoderSpec, LayerSpec, MLPSpec, NormKind, NormSpec


def build_spec(config: Config) -> DecoderSpec:
    """config.json of a GPT2LMHeadModel."""
    hidden_size = positive(config, "n_embd")
    return DecoderSpec(
        architecture=config["architectures"][0],
        vocab_size=positive(config, "vocab_size"),
        hidden_size=hidden_size,
        max_position_embeddings=positive(config, "n_positions"),
        layers=tuple(_layer(config, layer_idx) for layer_idx in range(positive(config, "n_layer"))),
        norm=NormSpec(NormKind.LAYER, field(config, "layer_norm_epsilon", float, 1e-5)),
        mlp=MLPSpec(
            intermediate_size=positive(config, "n_inner", 4 * hidden_size),
            activation=activation(config, "activation_function", "gelu_new"),
            is_gated=False,
            has_bias=True,
        ),
        rope=None,
        has_qkv_bias=True,
        has_o_bias=True,
        has_tied_embeddings=field(config, "tie_word_embeddings", bool, default=True),
    )


def _layer(config: Config, layer_idx: int) -> LayerSpec:
    num_heads = positive(config, "n_head")
    head_dim = head_width(positive(config, "n_embd"), num_heads)
    scale = head_dim**-0.5 if field(config, "scale_attn_weights", bool, default=True) else 1.0
    if field(config, "scale_attn_by_inverse_layer_idx", bool, default=False):
        scale /= layer_idx + 1
    return LayerSpec(
        num_q_heads=num_heads, num_kv_heads=num_heads, k_head_dim=head_dim, v_head_dim=head_dim, softmax_scale=scale
    )


def build_weight_map(spec: DecoderSpec) -> WeightMap:
    """Tensor names as `GPT2LMHeadModel.save_pretrained` writes them; base-model checkpoints lack the prefix."""
    sources = [
        WeightSource("transformer.wte.weight", "embed.weight"),
        WeightSource("transformer.wpe.weight", "position_embed.weight"),
        WeightSource("transformer.ln_f.weight", "norm.weight"),
        WeightSource("transformer.ln_f.bias", "norm.bias"),
    ]
    for layer_idx in range(spec.num_layers):
        sources += _layer_sources(f"transformer.h.{layer_idx}", f"layers.{layer_idx}")
    ignored = [r"(transformer\.)?h\.\d+\.attn\.(masked_)?bias"]
    if spec.has_tied_embeddings:
        ignored.append(r"lm_head\.weight")
    else:
        sources.append(WeightSource("lm_head.weight", "lm_head.weight"))
    return WeightMap(sources=sources, optional_prefix="transformer.", ignored=tuple(ignored))


def _layer_sources(theirs: str, ours: str) -> list[WeightSource]:
    norms = [("ln_1", "attention_norm"), ("ln_2", "mlp_norm")]
    linears = [("attn.c_attn", "qkv"), ("attn.c_proj", "o"), ("mlp.c_fc", "up"), ("mlp.c_proj", "down")]
    return [
        *(WeightSource(f"{theirs}.{a}.{kind}", f"{ours}.{b}.{kind}") for a, b in norms for kind in ("weight", "bias")),
        *(WeightSource(f"{theirs}.{a}.weight", f"{ours}.{b}.weight", is_transposed=True) for a, b in linears),
        *(WeightSource(f"{theirs}.{a}.bias", f"{ours}.{b}.bias") for a, b in linears),
    ]


FAMILY = Family(build_spec, build_weight_map)
