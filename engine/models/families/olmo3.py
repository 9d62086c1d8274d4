"""OLMo 3: OLMo 2 with a sliding window in three layers of four; rope is stretched in the others alone."""

import msgspec

from engine.models.config_fields import Config, Renamed, fields_of
from engine.models.families.olmo2 import NAMES, read_olmo2
from engine.models.family import Family, Published
from engine.models.rope_config import read_rope
from engine.models.spec import DecoderSpec, RopeSpec
from engine.models.standard import all_but_every, read_heads, read_layer, read_windows


def build_spec(config: Config) -> DecoderSpec:
    """config.json of an Olmo3ForCausalLM."""
    config = Renamed(config, defaults={"rope_theta": 500000.0, "sliding_window": 4096})
    windows = read_windows(config, all_but_every(config, 4))
    layers = [read_layer(config, sliding_window=window, rope=_rope(config, window)) for window in windows]
    return read_olmo2(config, layers)


def _rope(config: Config, window: int | None) -> RopeSpec:
    _, _, head_dim = read_heads(config)
    layer_type = "sliding_attention" if window else "full_attention"
    rope = read_rope(config, head_dim, layer_type=layer_type)
    is_own = layer_type in fields_of(config, "rope_parameters")
    return rope if window is None or is_own else msgspec.structs.replace(rope, scaling=None, attention_factor=1.0)


FAMILY = Family(
    architectures=("Olmo3ForCausalLM",),
    build_spec=build_spec,
    tensor_names=NAMES,
    published=Published(
        "allenai/Olmo-3-1025-7B",
        {
            "hidden_size": 4096,
            "intermediate_size": 11008,
            "max_position_embeddings": 65536,
            "num_attention_heads": 32,
            "num_hidden_layers": 32,
            "num_key_value_heads": 32,
            "rms_norm_eps": 1e-06,
            "rope_scaling": {
                "attention_factor": 1.2079441541679836,
                "beta_fast": 32.0,
                "beta_slow": 1.0,
                "factor": 8.0,
                "original_max_position_embeddings": 8192,
                "rope_type": "yarn",
            },
            "rope_theta": 500000,
            "sliding_window": 4096,
            "vocab_size": 100278,
        },
    ),
)
