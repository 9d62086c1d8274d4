"""OLMo 2: norms on what attention and MLP give, and on all queries and all keys of a token together."""

import msgspec

from engine.models.config_fields import Config, positive
from engine.models.families.llama import NAMES as LLAMA_NAMES
from engine.models.family import Family, Published
from engine.models.spec import DecoderSpec, LayerSpec, NormPlace, QKNormScope, QKNormSpec
from engine.models.standard import read_decoder, read_layer, read_rms_norm

NAMES = LLAMA_NAMES.with_layer(
    {
        "q_norm": "self_attn.q_norm",
        "k_norm": "self_attn.k_norm",
        "attention_output_norm": "post_attention_layernorm",
        "mlp_output_norm": "post_feedforward_layernorm",
    }
)


def build_spec(config: Config) -> DecoderSpec:
    """config.json of an Olmo2ForCausalLM."""
    return read_olmo2(config, [read_layer(config)] * positive(config, "num_hidden_layers"))


def read_olmo2(config: Config, layers: list[LayerSpec]) -> DecoderSpec:
    """A decoder of these layers, with OLMo 2's norms in and around them."""
    norm = read_rms_norm(config, 1e-5)
    qk_norm = QKNormSpec(norm, QKNormScope.WIDTH)
    layers = [msgspec.structs.replace(layer, qk_norm=qk_norm) for layer in layers]
    return read_decoder(config, layers, norm=norm, norm_place=NormPlace.OUTPUT)


FAMILY = Family(
    architectures=("Olmo2ForCausalLM",),
    build_spec=build_spec,
    tensor_names=NAMES,
    published=Published(
        "allenai/OLMo-2-1124-7B",
        {
            "hidden_size": 4096,
            "intermediate_size": 11008,
            "max_position_embeddings": 4096,
            "num_attention_heads": 32,
            "num_hidden_layers": 32,
            "num_key_value_heads": 32,
            "rms_norm_eps": 1e-06,
            "rope_theta": 500000,
            "vocab_size": 100352,
        },
    ),
)
