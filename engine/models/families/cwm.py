"""Code World Model: Llama in which three of four layers slide."""

from typing import Any

from engine.models.config_fields import Config, positive
from engine.models.families.llama import NAMES
from engine.models.family import Family, Published
from engine.models.spec import DecoderSpec
from engine.models.standard import read_decoder, read_layer, read_windows

LLAMA3 = {
    **{"rope_type": "llama3", "rope_theta": 1000000.0, "factor": 16.0, "original_max_position_embeddings": 8192},
    **{"low_freq_factor": 1.0, "high_freq_factor": 4.0},
}
DEFAULTS: dict[str, Any] = {
    **{"head_dim": 128, "num_key_value_heads": 8, "rms_norm_eps": 1e-5, "sliding_window": 8192},
    **{"rope_parameters": LLAMA3, "rope_theta": 1000000.0},
}


def build_spec(config: Config) -> DecoderSpec:
    """config.json of a CwmForCausalLM."""
    config = {**DEFAULTS, **config}
    windows = read_windows(config, [layer_idx % 4 != 0 for layer_idx in range(positive(config, "num_hidden_layers"))])
    layers = [read_layer(config, sliding_window=window, has_qkv_bias=False, has_o_bias=False) for window in windows]
    return read_decoder(config, layers)


FAMILY = Family(
    architectures=("CwmForCausalLM",),
    build_spec=build_spec,
    tensor_names=NAMES,
    published=Published(
        "facebook/cwm",
        {
            "head_dim": 128,
            "hidden_size": 6144,
            "intermediate_size": 21504,
            "max_position_embeddings": 131072,
            "num_attention_heads": 48,
            "num_hidden_layers": 64,
            "num_key_value_heads": 8,
            "rms_norm_eps": 1e-05,
            "rope_scaling": {
                "rope_type": "llama3",
                "factor": 16.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 8192,
            },
            "rope_theta": 1000000.0,
            "sliding_window": 8192,
            "vocab_size": 128256,
        },
    ),
)
