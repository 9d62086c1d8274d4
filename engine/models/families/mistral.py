"""Mistral 7B, Ministral 8B: Llama with a sliding window in every layer, or in some, where the config has one."""

from engine.models.config_fields import Config, positive
from engine.models.families.llama import NAMES
from engine.models.family import Family, Published
from engine.models.spec import DecoderSpec
from engine.models.standard import read_decoder, read_layer, read_windows


def build_spec(config: Config) -> DecoderSpec:
    """config.json of a MistralForCausalLM or a MinistralForCausalLM."""
    config = {"num_key_value_heads": 8, "sliding_window": 4096, **config}
    windows = read_windows(config, [True] * positive(config, "num_hidden_layers"))
    return read_decoder(config, [read_layer(config, sliding_window=window) for window in windows])


FAMILY = Family(
    architectures=("MistralForCausalLM", "MinistralForCausalLM"),
    build_spec=build_spec,
    tensor_names=NAMES,
    published=Published(
        "mistralai/Mistral-7B-v0.1",
        {
            "hidden_size": 4096,
            "intermediate_size": 14336,
            "max_position_embeddings": 32768,
            "num_attention_heads": 32,
            "num_hidden_layers": 32,
            "num_key_value_heads": 8,
            "sliding_window": 4096,
            "vocab_size": 32000,
        },
    ),
)
