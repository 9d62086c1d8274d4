"""OLMo: Llama with norms that have no parameters; in some, queries, keys and values are clipped."""

from engine.models.config_fields import Config, field, positive
from engine.models.families.llama import NAMES
from engine.models.family import Family, Published
from engine.models.spec import DecoderSpec, NormKind, NormSpec
from engine.models.standard import read_decoder, read_layer


def build_spec(config: Config) -> DecoderSpec:
    """config.json of an OlmoForCausalLM."""
    clip = field(config, "clip_qkv", float, 0.0) or None
    layers = [read_layer(config, qkv_clip=clip)] * positive(config, "num_hidden_layers")
    return read_decoder(config, layers, norm=NormSpec(NormKind.LAYER, 1e-5, has_weight=False))


FAMILY = Family(
    architectures=("OlmoForCausalLM",),
    build_spec=build_spec,
    tensor_names=NAMES,
    published=Published(
        "allenai/OLMo-7B-hf",
        {
            "hidden_size": 4096,
            "intermediate_size": 11008,
            "max_position_embeddings": 2048,
            "num_attention_heads": 32,
            "num_hidden_layers": 32,
            "num_key_value_heads": 32,
            "vocab_size": 50304,
        },
    ),
)
