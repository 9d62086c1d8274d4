"""Command R and R+: attention and MLP side by side behind one LayerNorm without bias, rope over neighbouring pairs."""

from collections.abc import Sequence
from typing import Any

from engine.models.config_fields import Config, field, positive
from engine.models.families.qwen3 import NAMES
from engine.models.family import Family, Published
from engine.models.rope_config import longest_context, read_rope
from engine.models.spec import DecoderSpec, HeadSpec, LayerSpec, QKNormScope, QKNormSpec, RopeSpec
from engine.models.standard import read_decoder, read_heads, read_is_tied, read_layer, read_layer_norm

DEFAULTS: dict[str, Any] = {"rope_theta": 500000.0}


def read_cohere_rope(config: Config) -> RopeSpec:
    """The rope of neighbouring pairs."""
    return read_rope({**DEFAULTS, **config}, read_heads(config)[2], is_interleaved=True)


def read_cohere_decoder(config: Config, layers: Sequence[LayerSpec]) -> DecoderSpec:
    """A decoder of these layers, each with its parts side by side."""
    norm = read_layer_norm(config, has_bias=False)
    # Of Command R the length that it was trained for has a name of its own.
    longest = positive(config, "model_max_length", longest_context(config, read_cohere_rope(config)))
    head = HeadSpec(read_is_tied(config, default=True), norm, multiplier=field(config, "logit_scale", float, 0.0625))
    side_by_side = {"is_parallel": True, "has_shared_norm": True}
    return read_decoder(config, layers, norm=norm, head=head, max_position_embeddings=longest, **side_by_side)


def build_spec(config: Config) -> DecoderSpec:
    """config.json of a CohereForCausalLM."""
    qk_norm = None
    if field(config, "use_qk_norm", bool, default=False):
        qk_norm = QKNormSpec(read_layer_norm(config, has_bias=False), QKNormScope.OWN_HEAD)
    layer = read_layer(config, rope=read_cohere_rope(config), qk_norm=qk_norm)
    return read_cohere_decoder(config, [layer] * positive(config, "num_hidden_layers"))


FAMILY = Family(
    architectures=("CohereForCausalLM",),
    build_spec=build_spec,
    tensor_names=NAMES,
    published=Published(
        "CohereForAI/c4ai-command-r-v01",
        {
            "hidden_size": 8192,
            "intermediate_size": 22528,
            "layer_norm_eps": 1e-05,
            "logit_scale": 0.0625,
            "max_position_embeddings": 8192,
            "model_max_length": 131072,
            "num_attention_heads": 64,
            "num_hidden_layers": 40,
            "num_key_value_heads": 64,
            "rope_theta": 8000000.0,
            "vocab_size": 256000,
        },
    ),
)
