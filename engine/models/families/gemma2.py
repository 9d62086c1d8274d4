"""Gemma 2: norms on both sides of every sublayer, capped scores and logits, a window in every other layer."""

from typing import Any

from engine.models.config_fields import Config, activation, field, optional_float
from engine.models.families.gemma import read_gemma_decoder
from engine.models.families.llama import NAMES as LLAMA_NAMES
from engine.models.family import Family, Published
from engine.models.spec import DecoderSpec, LayerSpec, NormPlace
from engine.models.standard import all_but_every, read_layer, read_mlp, read_windows

NAMES = LLAMA_NAMES.with_layer(
    {
        "attention_output_norm": "post_attention_layernorm",
        "mlp_norm": "pre_feedforward_layernorm",
        "mlp_output_norm": "post_feedforward_layernorm",
    }
)
DEFAULTS: dict[str, Any] = {
    "attn_logit_softcapping": 50.0,
    "final_logit_softcapping": 30.0,
    "head_dim": 256,
    "num_key_value_heads": 4,
    "sliding_window": 4096,
}


def read_gemma2_layer(config: Config, **changes: Any) -> LayerSpec:
    """A layer of Gemma 2 or 3; `changes` are fields of LayerSpec."""
    scale = field(config, "query_pre_attn_scalar", float, 256.0) ** -0.5
    mlp = read_mlp(config, activation=activation(config, "hidden_activation", "gelu_pytorch_tanh"))
    return read_layer(config, softmax_scale=scale, mlp=mlp, **changes)


def build_spec(config: Config) -> DecoderSpec:
    """config.json of a Gemma2ForCausalLM."""
    config = {**DEFAULTS, **config}
    softcap = optional_float(config, "attn_logit_softcapping")
    windows = read_windows(config, all_but_every(config, 2))
    layers = [read_gemma2_layer(config, sliding_window=window, softcap=softcap) for window in windows]
    return read_gemma_decoder(config, layers, norm_place=NormPlace.SANDWICH)


FAMILY = Family(
    architectures=("Gemma2ForCausalLM",),
    build_spec=build_spec,
    tensor_names=NAMES,
    published=Published(
        "google/gemma-2-9b",
        {
            "attn_logit_softcapping": 50.0,
            "final_logit_softcapping": 30.0,
            "head_dim": 256,
            "hidden_size": 3584,
            "intermediate_size": 14336,
            "max_position_embeddings": 8192,
            "num_attention_heads": 16,
            "num_hidden_layers": 42,
            "num_key_value_heads": 8,
            "query_pre_attn_scalar": 256,
            "sliding_window": 4096,
            "vocab_size": 256000,
        },
    ),
)
