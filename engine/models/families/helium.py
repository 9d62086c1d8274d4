"""Helium 1: Llama with a rope over neighbouring pairs."""

from typing import Any

from engine.models.config_fields import Config, positive
from engine.models.families.llama import NAMES
from engine.models.family import Family, Published
from engine.models.rope_config import read_rope
from engine.models.spec import DecoderSpec
from engine.models.standard import read_decoder, read_layer

DEFAULTS: dict[str, Any] = {
    **{"head_dim": 128, "num_key_value_heads": 20, "rms_norm_eps": 1e-8, "rope_theta": 100000.0},
}


def build_spec(config: Config) -> DecoderSpec:
    """config.json of a HeliumForCausalLM."""
    config = {**DEFAULTS, **config}
    layer = read_layer(
        config, rope=read_rope(config, positive(config, "head_dim"), is_interleaved=True), has_o_bias=False
    )
    return read_decoder(config, [layer] * positive(config, "num_hidden_layers"))


FAMILY = Family(
    architectures=("HeliumForCausalLM",),
    build_spec=build_spec,
    tensor_names=NAMES,
    published=Published(
        "kyutai/helium-1-preview-2b",
        {
            "head_dim": 128,
            "hidden_size": 2560,
            "intermediate_size": 7040,
            "max_position_embeddings": 4096,
            "num_attention_heads": 20,
            "num_hidden_layers": 24,
            "num_key_value_heads": 20,
            "rms_norm_eps": 1e-08,
            "rope_theta": 100000.0,
            "vocab_size": 48000,
        },
    ),
)
