"""Granite 3 with experts, all of them in one tensor."""

import msgspec

from engine.models.config_fields import Config
from engine.models.families import granite
from engine.models.families.llama import NAMES
from engine.models.family import Family, Published
from engine.models.moe_config import read_moe
from engine.models.spec import DecoderSpec

DEFAULTS = {"num_experts_per_tok": 2, "num_local_experts": 8}


def build_spec(config: Config) -> DecoderSpec:
    """config.json of a GraniteMoeForCausalLM."""
    config = {**DEFAULTS, **config}
    dense, mlp = granite.build_spec(config), read_moe(config, is_renormalized=True)
    layers = tuple(msgspec.structs.replace(layer, mlp=mlp) for layer in dense.layers)
    return msgspec.structs.replace(dense, layers=layers)


FAMILY = Family(
    architectures=("GraniteMoeForCausalLM",),
    build_spec=build_spec,
    tensor_names=NAMES.with_layer(
        {
            "router": "block_sparse_moe.router.layer",
            "experts.gate_up": "block_sparse_moe.input_linear",
            "experts.down": "block_sparse_moe.output_linear",
        }
    ),
    published=Published(
        "ibm-granite/granite-3.1-1b-a400m-instruct",
        {
            "attention_multiplier": 0.015625,
            "embedding_multiplier": 12.0,
            "hidden_size": 1024,
            "intermediate_size": 512,
            "logits_scaling": 6.0,
            "max_position_embeddings": 131072,
            "num_attention_heads": 16,
            "num_experts_per_tok": 8,
            "num_hidden_layers": 24,
            "num_key_value_heads": 8,
            "num_local_experts": 32,
            "residual_multiplier": 0.22,
            "rms_norm_eps": 1e-06,
            "rope_theta": 1500000.0,
            "tie_word_embeddings": True,
            "vocab_size": 49155,
        },
    ),
)
