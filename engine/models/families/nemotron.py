"""Nemotron 3 and 4, Minitron: LayerNorm with weights kept as their distance from 1, squared ReLU, rope on half a head."""

from engine.models.config_fields import Config, Renamed, field, positive
from engine.models.families.llama import NAMES as LLAMA_NAMES
from engine.models.family import Family, Published
from engine.models.spec import DecoderSpec
from engine.models.standard import read_decoder, read_layer, read_layer_norm, read_plain_mlp

NAMES = LLAMA_NAMES.with_layer({"up": "mlp.up_proj"})


def build_spec(config: Config) -> DecoderSpec:
    """config.json of a NemotronForCausalLM."""
    config = Renamed(config, {"norm_eps": "layer_norm_eps"}, {"partial_rotary_factor": 0.5})
    mlp = read_plain_mlp(config, "relu2", has_bias=field(config, "mlp_bias", bool, default=False))
    norm = read_layer_norm(config, weight_offset=1.0)
    return read_decoder(config, [read_layer(config, mlp=mlp)] * positive(config, "num_hidden_layers"), norm=norm)


FAMILY = Family(
    architectures=("NemotronForCausalLM",),
    build_spec=build_spec,
    tensor_names=NAMES,
    published=Published(
        "nvidia/Minitron-4B-Base",
        {
            "head_dim": 128,
            "hidden_act": "relu2",
            "hidden_size": 3072,
            "intermediate_size": 9216,
            "max_position_embeddings": 4096,
            "norm_eps": 1e-05,
            "num_attention_heads": 24,
            "num_hidden_layers": 32,
            "num_key_value_heads": 8,
            "partial_rotary_factor": 0.5,
            "rope_theta": 10000,
            "vocab_size": 256000,
        },
    ),
)
