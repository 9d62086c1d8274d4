"""Qwen 1.5, 2 and 2.5: Llama with biases on queries, keys and values, and windows in the upper layers on request."""

from collections.abc import Sequence
from typing import Any

from engine.models.config_fields import Config, field, positive
from engine.models.families.llama import NAMES
from engine.models.family import Family, Published
from engine.models.spec import DecoderSpec
from engine.models.standard import read_decoder, read_layer, read_windows

DEFAULTS: dict[str, Any] = {"sliding_window": 4096, "max_window_layers": 28}


def read_qwen_windows(config: Config, is_sliding: Sequence[bool] | None = None) -> list[int | None]:
    """The window of every layer: where the config asks for them, the layers that `is_sliding` says.

    Args:
        config: config.json.
        is_sliding: a layer each; None: those from `max_window_layers` on.
    """
    config = {**DEFAULTS, **config}
    num_layers = positive(config, "num_hidden_layers")
    if not field(config, "use_sliding_window", bool, default=False):
        config["sliding_window"] = None
    num_full = field(config, "max_window_layers", int)
    return read_windows(config, is_sliding or [layer_idx >= num_full for layer_idx in range(num_layers)])


def build_spec(config: Config) -> DecoderSpec:
    """config.json of a Qwen2ForCausalLM."""
    layers = [
        read_layer(config, sliding_window=window, has_qkv_bias=True, has_o_bias=False)
        for window in read_qwen_windows(config)
    ]
    return read_decoder(config, layers)


FAMILY = Family(
    architectures=("Qwen2ForCausalLM",),
    build_spec=build_spec,
    tensor_names=NAMES,
    published=Published(
        "Qwen/Qwen2.5-7B-Instruct",
        {
            "hidden_size": 3584,
            "intermediate_size": 18944,
            "max_position_embeddings": 32768,
            "max_window_layers": 28,
            "num_attention_heads": 28,
            "num_hidden_layers": 28,
            "num_key_value_heads": 4,
            "rope_theta": 1000000.0,
            "sliding_window": 131072,
            "use_sliding_window": False,
            "vocab_size": 152064,
        },
    ),
)
