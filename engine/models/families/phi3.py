"""Phi 3 and 4: Llama with fused projections, LongRoPE in the long versions, and a window in some."""

from typing import Any

from engine.models.config_fields import Config, only, positive
from engine.models.families.llama import NAMES as LLAMA_NAMES
from engine.models.family import Family, Published
from engine.models.rope_config import rope_fields
from engine.models.spec import DecoderSpec
from engine.models.standard import read_decoder, read_layer, read_windows

NAMES = LLAMA_NAMES.with_layer({"qkv": "self_attn.qkv_proj", "gate_up": "mlp.gate_up_proj"})
DEFAULTS: dict[str, Any] = {"original_max_position_embeddings": 4096, "rms_norm_eps": 1e-5}


def build_spec(config: Config) -> DecoderSpec:
    """config.json of a Phi3ForCausalLM."""
    config = {**DEFAULTS, **config}
    for key in ("rope_type", "type"):
        # `yarn` is what some of its early configs called a rope of their own.
        only(rope_fields(config), key, "default", "longrope", "su")
    windows = read_windows(config, [True] * positive(config, "num_hidden_layers"))
    return read_decoder(config, [read_layer(config, sliding_window=window) for window in windows])


FAMILY = Family(
    architectures=("Phi3ForCausalLM",),
    build_spec=build_spec,
    tensor_names=NAMES,
    published=Published(
        "microsoft/Phi-3-mini-4k-instruct",
        {
            "hidden_size": 3072,
            "intermediate_size": 8192,
            "max_position_embeddings": 4096,
            "num_attention_heads": 32,
            "num_hidden_layers": 32,
            "num_key_value_heads": 32,
            "rms_norm_eps": 1e-05,
            "rope_theta": 10000.0,
            "sliding_window": 2047,
            "vocab_size": 32064,
        },
    ),
)
