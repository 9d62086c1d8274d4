"""Seed-OSS: Llama with biases on queries, keys and values, and on the output only on request."""

from typing import Any

from engine.models.config_fields import Config, field, positive
from engine.models.families.llama import NAMES
from engine.models.family import Family, Published
from engine.models.spec import DecoderSpec
from engine.models.standard import read_decoder, read_layer

DEFAULTS: dict[str, Any] = {"attention_bias": True, "head_dim": 128, "num_key_value_heads": 8}


def build_spec(config: Config) -> DecoderSpec:
    """config.json of a SeedOssForCausalLM."""
    config = {**DEFAULTS, **config}
    layer = read_layer(config, has_o_bias=field(config, "attention_out_bias", bool, default=False))
    return read_decoder(config, [layer] * positive(config, "num_hidden_layers"))


FAMILY = Family(
    architectures=("SeedOssForCausalLM",),
    build_spec=build_spec,
    tensor_names=NAMES,
    published=Published(
        "ByteDance-Seed/Seed-OSS-36B-Instruct",
        {
            "attention_bias": True,
            "attention_out_bias": False,
            "head_dim": 128,
            "hidden_size": 5120,
            "intermediate_size": 27648,
            "max_position_embeddings": 524288,
            "num_attention_heads": 80,
            "num_hidden_layers": 64,
            "num_key_value_heads": 8,
            "rope_scaling": {"rope_type": "default"},
            "rope_theta": 10000000.0,
            "vocab_size": 155136,
        },
    ),
)
