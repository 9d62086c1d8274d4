"""ERNIE 4.5, dense: Llama with a rope over neighbouring pairs, and biases everywhere or nowhere."""

from typing import Any

from engine.models.config_fields import Config, field, positive
from engine.models.families.llama import NAMES
from engine.models.family import Family, Published
from engine.models.rope_config import read_rope
from engine.models.spec import DecoderSpec
from engine.models.standard import read_decoder, read_heads, read_layer, read_mlp

DEFAULTS: dict[str, Any] = {
    **{"head_dim": 128, "num_key_value_heads": 2, "rms_norm_eps": 1e-5, "rope_theta": 500000.0},
}


def build_spec(config: Config) -> DecoderSpec:
    """config.json of an Ernie4_5ForCausalLM."""
    config = {**DEFAULTS, **config}
    has_bias = field(config, "use_bias", bool, default=False)
    rope = read_rope(config, read_heads(config)[2], is_interleaved=True)
    mlp = read_mlp(config, has_bias=has_bias)
    layer = read_layer(config, rope=rope, mlp=mlp, has_qkv_bias=has_bias, has_o_bias=has_bias)
    return read_decoder(config, [layer] * positive(config, "num_hidden_layers"), is_tied_by_default=True)


FAMILY = Family(
    architectures=("Ernie4_5ForCausalLM",),
    build_spec=build_spec,
    tensor_names=NAMES,
    published=Published(
        "baidu/ERNIE-4.5-0.3B-PT",
        {
            "head_dim": 128,
            "hidden_size": 1024,
            "intermediate_size": 3072,
            "max_position_embeddings": 131072,
            "num_attention_heads": 16,
            "num_hidden_layers": 18,
            "num_key_value_heads": 2,
            "rms_norm_eps": 1e-05,
            "rope_theta": 500000.0,
            "use_bias": False,
            "vocab_size": 103424,
        },
    ),
)
