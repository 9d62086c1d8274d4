"""Qwen 3: Llama with normalised queries and keys, and heads whose width does not follow from the model's."""

from engine.models.config_fields import Config
from engine.models.families.llama import NAMES as LLAMA_NAMES
from engine.models.families.qwen2 import read_qwen_windows
from engine.models.family import Family, Published
from engine.models.spec import DecoderSpec, QKNormSpec
from engine.models.standard import read_decoder, read_layer, read_rms_norm

NAMES = LLAMA_NAMES.with_layer({"q_norm": "self_attn.q_norm", "k_norm": "self_attn.k_norm"})
"""Most families with such norms call them so."""


def build_spec(config: Config) -> DecoderSpec:
    """config.json of a Qwen3ForCausalLM."""
    config = {"head_dim": 128, **config}
    qk_norm = QKNormSpec(read_rms_norm(config))
    windows = read_qwen_windows(config)
    return read_decoder(config, [read_layer(config, sliding_window=window, qk_norm=qk_norm) for window in windows])


FAMILY = Family(
    architectures=("Qwen3ForCausalLM",),
    build_spec=build_spec,
    tensor_names=NAMES,
    published=Published(
        "Qwen/Qwen3-8B",
        {
            "head_dim": 128,
            "hidden_size": 4096,
            "intermediate_size": 12288,
            "max_position_embeddings": 40960,
            "num_attention_heads": 32,
            "num_hidden_layers": 36,
            "num_key_value_heads": 8,
            "rope_theta": 1000000.0,
            "vocab_size": 151936,
        },
    ),
)
