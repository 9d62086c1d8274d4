"""Gemma 3: normalised queries and keys, and windows with a rope of their own in all but every sixth layer.

Of the models that also see (4B and larger), the text part is served.
"""

from typing import Any

from engine.models.config_fields import Config, fields_of, only, positive, text_part
from engine.models.families.gemma import read_gemma_decoder
from engine.models.families.gemma2 import NAMES as GEMMA2_NAMES
from engine.models.families.gemma2 import read_gemma2_layer
from engine.models.family import Family, Published
from engine.models.rope_config import read_rope
from engine.models.spec import DecoderSpec, LayerSpec, NormPlace, QKNormSpec, RopeSpec
from engine.models.standard import all_but_every, read_rms_norm, read_windows

NAMES = GEMMA2_NAMES.with_layer({"q_norm": "self_attn.q_norm", "k_norm": "self_attn.k_norm"})
DEFAULTS: dict[str, Any] = {
    "head_dim": 256,
    "max_position_embeddings": 131072,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "rope_theta": 1000000.0,
    "sliding_window": 4096,
    "vocab_size": 262208,
}


def build_spec(config: Config) -> DecoderSpec:
    """config.json of a Gemma3ForCausalLM or a Gemma3ForConditionalGeneration."""
    config = {**DEFAULTS, **(text_part(config) if "text_config" in config else config)}
    # transformers reads this field and does not apply it.
    only(config, "attn_logit_softcapping", None)
    interval = positive(config, "sliding_window_pattern", positive(config, "_sliding_window_pattern", 6))
    windows = read_windows(config, all_but_every(config, interval))
    layers = [_layer(config, window) for window in windows]
    return read_gemma_decoder(config, layers, norm_place=NormPlace.SANDWICH)


def _layer(config: Config, window: int | None) -> LayerSpec:
    head_dim = positive(config, "head_dim")
    rope = read_rope(config, head_dim, layer_type="full_attention") if window is None else _local_rope(config, head_dim)
    qk_norm = QKNormSpec(read_rms_norm(config, weight_offset=1.0))
    return read_gemma2_layer(config, rope=rope, qk_norm=qk_norm, sliding_window=window)


def _local_rope(config: Config, head_dim: int) -> RopeSpec:
    """The rope of layers with a window: older configs state its base alone, and their scaling is not meant for it."""
    fields = fields_of(config, "rope_parameters").get("sliding_attention")
    theta = config.get("rope_local_base_freq")
    return read_rope({**config, "rope_parameters": fields, "rope_scaling": None, "rope_theta": theta}, head_dim)


FAMILY = Family(
    architectures=("Gemma3ForCausalLM", "Gemma3ForConditionalGeneration"),
    build_spec=build_spec,
    tensor_names=NAMES.of_text_part,
    published=Published(
        "google/gemma-3-1b-it",
        {
            "head_dim": 256,
            "hidden_size": 1152,
            "intermediate_size": 6912,
            "max_position_embeddings": 32768,
            "num_attention_heads": 4,
            "num_hidden_layers": 26,
            "num_key_value_heads": 1,
            "query_pre_attn_scalar": 256,
            "rope_local_base_freq": 10000,
            "rope_theta": 1000000,
            "sliding_window": 512,
            "sliding_window_pattern": 6,
            "vocab_size": 262144,
        },
    ),
    limits="Gemma3ForConditionalGeneration is served for text only: headcount has no vision encoder.",
)
