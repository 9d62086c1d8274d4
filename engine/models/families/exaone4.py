"""EXAONE 4: norms on what the sublayers give, normalised queries and keys; where some layers slide, only those turn."""

import functools
import re
from typing import Any

from engine.models.config_fields import Config, positive
from engine.models.families.qwen3 import NAMES as QWEN3_NAMES
from engine.models.family import Family, Published
from engine.models.rope_config import longest_context
from engine.models.spec import DecoderSpec, NormPlace, QKNormSpec
from engine.models.standard import all_but_every, read_decoder, read_layer, read_rms_norm, read_windows

NAMES = QWEN3_NAMES.with_layer(
    {"attention_output_norm": "post_attention_layernorm", "mlp_output_norm": "post_feedforward_layernorm"}
)
DEFAULTS: dict[str, Any] = {"num_key_value_heads": 32, "rms_norm_eps": 1e-5, "sliding_window": 4096}


def build_spec(config: Config) -> DecoderSpec:
    """config.json of an Exaone4ForCausalLM."""
    config = {**DEFAULTS, **config}
    qk_norm = QKNormSpec(read_rms_norm(config))
    layer = functools.partial(read_layer, config, qk_norm=qk_norm, has_qkv_bias=False, has_o_bias=False)
    turning = layer()
    layers = [turning] * positive(config, "num_hidden_layers")
    if config["sliding_window"] is not None:
        windows = read_windows(config, all_but_every(config, _interval(config)))
        layers = [layer(sliding_window=window, rope=turning.rope if window else None) for window in windows]
    longest = longest_context(config, turning.rope)
    return read_decoder(config, layers, norm_place=NormPlace.OUTPUT, max_position_embeddings=longest)


def _interval(config: Config) -> int:
    """Every how many layers one does not slide; LLLG stands for 4."""
    pattern = config.get("sliding_window_pattern")
    if isinstance(pattern, str) and re.fullmatch("L+G", pattern):
        return len(pattern)
    return positive(config, "sliding_window_pattern", 4)


FAMILY = Family(
    architectures=("Exaone4ForCausalLM",),
    build_spec=build_spec,
    tensor_names=NAMES,
    published=Published(
        "LGAI-EXAONE/EXAONE-4.0-32B",
        {
            "head_dim": 128,
            "hidden_size": 5120,
            "intermediate_size": 27392,
            "layer_types": [*["sliding_attention"] * 3, "full_attention"] * 16,
            "max_position_embeddings": 131072,
            "num_attention_heads": 40,
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
            "rope_theta": 1000000,
            "sliding_window": 4096,
            "sliding_window_pattern": "LLLG",
            "vocab_size": 102400,
        },
    ),
)
