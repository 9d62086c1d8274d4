"""Llama 2 and 3, SmolLM2, Mistral: pre-norm, rope, gated SiLU MLP, any number of KV heads."""

from engine.models.config_fields import Config, activation, field, head_counts, head_width, positive
from engine.models.family import Family, WeightMap, WeightSource, stacked
from engine.models.rope_config import read_rope
from engine.models.spec import DecoderSpec, LayerSpec, MLPSpec, NormKind, NormSpec


def build_spec(config: Config) -> DecoderSpec:
    """config.json of a LlamaForCausalLM or MistralForCausalLM."""
    hidden_size = positive(config, "hidden_size")
    num_heads = positive(config, "num_attention_heads")
    num_q_heads, num_kv_heads = head_counts(num_heads, positive(config, "num_key_value_heads", num_heads))
    head_dim = positive(config, "head_dim") if config.get("head_dim") else head_width(hidden_size, num_q_heads)
    window = config.get("sliding_window") if config.get("model_type") == "mistral" else None
    layer = LayerSpec(
        num_q_heads=num_q_heads,
        num_kv_heads=num_kv_heads,
        k_head_dim=head_dim,
        v_head_dim=head_dim,
        softmax_scale=head_dim**-0.5,
        sliding_window=window,
    )
    has_attention_bias = field(config, "attention_bias", bool, default=False)
    return DecoderSpec(
        architecture=config["architectures"][0],
        vocab_size=positive(config, "vocab_size"),
        hidden_size=hidden_size,
        max_position_embeddings=positive(config, "max_position_embeddings"),
        layers=(layer,) * positive(config, "num_hidden_layers"),
        norm=NormSpec(NormKind.RMS, field(config, "rms_norm_eps", float, 1e-6)),
        mlp=MLPSpec(
            intermediate_size=positive(config, "intermediate_size"),
            activation=activation(config, "hidden_act", "silu"),
            is_gated=True,
            has_bias=field(config, "mlp_bias", bool, default=False),
        ),
        rope=read_rope(config, head_dim),
        has_qkv_bias=has_attention_bias,
        has_o_bias=has_attention_bias,
        has_tied_embeddings=field(config, "tie_word_embeddings", bool, default=False),
    )


def build_weight_map(spec: DecoderSpec) -> WeightMap:
    """Tensor names as `LlamaForCausalLM.save_pretrained` writes them."""
    sources = [
        WeightSource("model.embed_tokens.weight", "embed.weight"),
        WeightSource("model.norm.weight", "norm.weight"),
    ]
    for layer_idx in range(spec.num_layers):
        sources += _layer_sources(spec, layer_idx)
    ignored = [r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq"]
    if spec.has_tied_embeddings:
        ignored.append(r"lm_head\.weight")
    else:
        sources.append(WeightSource("lm_head.weight", "lm_head.weight"))
    return WeightMap(sources=sources, ignored=tuple(ignored))


def _layer_sources(spec: DecoderSpec, layer_idx: int) -> list[WeightSource]:
    theirs, ours, layer, width = f"model.layers.{layer_idx}", f"layers.{layer_idx}", spec.layers[layer_idx], spec.mlp
    sources = [
        WeightSource(f"{theirs}.input_layernorm.weight", f"{ours}.attention_norm.weight"),
        WeightSource(f"{theirs}.post_attention_layernorm.weight", f"{ours}.mlp_norm.weight"),
    ]
    for kind in ("weight", "bias"):
        if kind == "weight" or spec.has_qkv_bias:
            heights = [("q", layer.q_width), ("k", layer.k_width), ("v", layer.v_width)]
            rows = [(f"{theirs}.self_attn.{name}_proj.{kind}", height) for name, height in heights]
            sources += stacked(rows, f"{ours}.qkv.{kind}")
        if kind == "weight" or spec.has_o_bias:
            sources.append(WeightSource(f"{theirs}.self_attn.o_proj.{kind}", f"{ours}.o.{kind}"))
        if kind == "weight" or spec.mlp.has_bias:
            rows = [(f"{theirs}.mlp.{name}_proj.{kind}", width.intermediate_size) for name in ("gate", "up")]
            sources += stacked(rows, f"{ours}.gate_up.{kind}")
            sources.append(WeightSource(f"{theirs}.mlp.down_proj.{kind}", f"{ours}.down.{kind}"))
    return sources


FAMILY = Family(build_spec, build_weight_map)
