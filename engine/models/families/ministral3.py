"""Ministral 3: Mistral with YaRN and queries that grow with their position; the text part of models that also see.

Mistral Small 3.1 is such a model too, with Mistral itself as its text part.
"""

from typing import Any

from engine.models.config_fields import Config, field, only, positive, text_part
from engine.models.families import mistral
from engine.models.families.llama import NAMES
from engine.models.family import Family, Published
from engine.models.rope_config import rope_fields
from engine.models.spec import DecoderSpec, QueryGrowthSpec
from engine.models.standard import read_decoder, read_layer, read_windows

ROPE = {
    **{"rope_type": "yarn", "rope_theta": 1000000.0, "factor": 16.0, "original_max_position_embeddings": 16384},
    **{"mscale": 1.0, "mscale_all_dim": 1.0, "llama_4_scaling_beta": 0.1},
}
DEFAULTS: dict[str, Any] = {
    **{"head_dim": 128, "max_position_embeddings": 262144, "num_key_value_heads": 8},
    **{"rms_norm_eps": 1e-5, "rope_parameters": ROPE},
}


def build_spec(config: Config) -> DecoderSpec:
    """config.json of a Ministral3ForCausalLM or a Mistral3ForConditionalGeneration."""
    if "text_config" in config:
        config = text_part(config)
        if config.get("model_type") != "ministral3":
            only(config, "model_type", "mistral")
            return mistral.build_spec(config)
    config = {**DEFAULTS, **config}
    rope = rope_fields(config)
    beta = field(rope, "llama_4_scaling_beta", float)
    growth = QueryGrowthSpec(beta, period=positive(rope, "original_max_position_embeddings"))
    windows = read_windows(config, [True] * positive(config, "num_hidden_layers"))
    return read_decoder(config, [read_layer(config, sliding_window=window, query_growth=growth) for window in windows])


FAMILY = Family(
    architectures=("Mistral3ForConditionalGeneration", "Ministral3ForCausalLM"),
    build_spec=build_spec,
    tensor_names=NAMES.of_text_part,
    published=Published(
        "mistralai/Mistral-Small-3.1-24B-Instruct-2503",
        {
            "text_config": {
                "head_dim": 128,
                "hidden_size": 5120,
                "intermediate_size": 32768,
                "max_position_embeddings": 131072,
                "model_type": "mistral",
                "num_attention_heads": 32,
                "num_hidden_layers": 40,
                "num_key_value_heads": 8,
                "rms_norm_eps": 1e-05,
                "rope_theta": 1000000000.0,
                "sliding_window": None,
                "vocab_size": 131072,
            },
        },
    ),
    limits="Mistral3ForConditionalGeneration is served for text only: headcount has no vision encoder.",
)
