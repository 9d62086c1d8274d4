"""GLM-4 of 2024: biases on queries, keys and values, a rope over neighbouring pairs of half of each head."""

from typing import Any

from engine.models.config_fields import Config, field, positive
from engine.models.families.llama import NAMES as LLAMA_NAMES
from engine.models.family import Family, Published
from engine.models.rope_config import read_rope
from engine.models.spec import DecoderSpec
from engine.models.standard import read_decoder, read_layer

NAMES = LLAMA_NAMES.with_layer({"gate_up": "mlp.gate_up_proj"})
DEFAULTS: dict[str, Any] = {
    "attention_bias": True,
    "head_dim": 128,
    "num_key_value_heads": 2,
    "partial_rotary_factor": 0.5,
    "rms_norm_eps": 1.5625e-07,
}


def build_glm_spec(config: Config, **changes: Any) -> DecoderSpec:
    """config.json of a GLM-4; `changes` are fields of DecoderSpec."""
    config = {**DEFAULTS, **config}
    rope = read_rope(config, positive(config, "head_dim"), is_interleaved=True)
    layer = read_layer(config, rope=rope, has_qkv_bias=field(config, "attention_bias", bool), has_o_bias=False)
    return read_decoder(config, [layer] * positive(config, "num_hidden_layers"), **changes)


FAMILY = Family(
    architectures=("GlmForCausalLM",),
    build_spec=build_glm_spec,
    tensor_names=NAMES,
    published=Published(
        "THUDM/glm-4-9b-chat-hf",
        {
            "attention_bias": True,
            "head_dim": 128,
            "hidden_size": 4096,
            "intermediate_size": 13696,
            "max_position_embeddings": 131072,
            "num_attention_heads": 32,
            "num_hidden_layers": 40,
            "num_key_value_heads": 2,
            "partial_rotary_factor": 0.5,
            "rms_norm_eps": 1.5625e-07,
            "rope_theta": 10000.0,
            "vocab_size": 151552,
        },
    ),
)
