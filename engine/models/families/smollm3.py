"""SmolLM 3: Llama in which every fourth layer turns nothing, and slides on request."""

from typing import Any

from engine.errors import ModelLoadError
from engine.models.config_fields import Config, field, positive
from engine.models.families.llama import NAMES
from engine.models.family import Family, Published
from engine.models.rope_config import longest_context
from engine.models.spec import DecoderSpec
from engine.models.standard import all_but_every, read_decoder, read_layer, read_windows

DEFAULTS: dict[str, Any] = {"num_key_value_heads": 4, "rope_theta": 2000000.0}


def build_spec(config: Config) -> DecoderSpec:
    """config.json of a SmolLM3ForCausalLM."""
    config = {**DEFAULTS, **config}
    has_rope = _has_rope(config)
    if not field(config, "use_sliding_window", bool, default=False):
        config["sliding_window"] = None
    turning = read_layer(config)
    layers = [
        read_layer(config, rope=turning.rope if turns else None, sliding_window=window)
        for turns, window in zip(has_rope, read_windows(config, [not turns for turns in has_rope]), strict=True)
    ]
    longest = longest_context(config, turning.rope)
    return read_decoder(config, layers, is_tied_by_default=True, max_position_embeddings=longest)


def _has_rope(config: Config) -> list[bool]:
    """Which layers turn.

    Raises:
        ModelLoadError: `no_rope_layers`, which says it the other way round than its name, is no list of 0 and 1.
    """
    num_layers, flags = positive(config, "num_hidden_layers"), config.get("no_rope_layers")
    by_interval = all_but_every(config, positive(config, "no_rope_layer_interval", 4))
    if flags is None:
        return by_interval
    if not isinstance(flags, list) or len(flags) < num_layers or not set(flags) <= {0, 1}:
        raise ModelLoadError(
            f"config.json: 'no_rope_layers' must be 0 or 1 for each of {num_layers} layers, got {flags!r}"
        )
    return [flag == 1 for flag in flags[:num_layers]]


FAMILY = Family(
    architectures=("SmolLM3ForCausalLM",),
    build_spec=build_spec,
    tensor_names=NAMES,
    published=Published(
        "HuggingFaceTB/SmolLM3-3B",
        {
            "hidden_size": 2048,
            "intermediate_size": 11008,
            "max_position_embeddings": 65536,
            "no_rope_layer_interval": 4,
            "num_attention_heads": 16,
            "num_hidden_layers": 36,
            "num_key_value_heads": 4,
            "rope_theta": 5000000.0,
            "vocab_size": 128256,
        },
    ),
)
