"""StarCoder 2: Llama's attention with LayerNorm, a plain MLP, biases everywhere and a window in every layer."""

from typing import Any

from engine.models.config_fields import Config, Renamed, field, only, positive
from engine.models.families.llama import NAMES as LLAMA_NAMES
from engine.models.family import Family, Published
from engine.models.spec import DecoderSpec
from engine.models.standard import read_decoder, read_layer, read_layer_norm, read_plain_mlp, read_windows

NAMES = LLAMA_NAMES.with_layer({"up": "mlp.c_fc", "down": "mlp.c_proj"})
DEFAULTS: dict[str, Any] = {"num_key_value_heads": 2, "use_bias": True}


def build_spec(config: Config) -> DecoderSpec:
    """config.json of a Starcoder2ForCausalLM."""
    config = Renamed(config, {"norm_epsilon": "layer_norm_eps"}, DEFAULTS)
    only(config, "mlp_type", "default")
    only(config, "norm_type", "layer_norm")
    has_bias = field(config, "use_bias", bool)
    mlp = read_plain_mlp(config, "gelu_pytorch_tanh", has_bias=has_bias)
    layers = [
        read_layer(config, mlp=mlp, sliding_window=window, has_qkv_bias=has_bias, has_o_bias=has_bias)
        for window in read_windows(config, [True] * positive(config, "num_hidden_layers"))
    ]
    return read_decoder(config, layers, norm=read_layer_norm(config), is_tied_by_default=True)


FAMILY = Family(
    architectures=("Starcoder2ForCausalLM",),
    build_spec=build_spec,
    tensor_names=NAMES,
    published=Published(
        "bigcode/starcoder2-3b",
        {
            "hidden_act": "gelu_pytorch_tanh",
            "hidden_size": 3072,
            "intermediate_size": 12288,
            "max_position_embeddings": 16384,
            "mlp_type": "default",
            "norm_epsilon": 1e-05,
            "norm_type": "layer_norm",
            "num_attention_heads": 24,
            "num_hidden_layers": 30,
            "num_key_value_heads": 2,
            "rope_theta": 999999.4420358813,
            "sliding_window": 4096,
            "use_bias": True,
            "vocab_size": 49152,
        },
    ),
)
