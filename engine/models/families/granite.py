"""Granite 3: Llama with factors on embeddings, scores, what a sublayer adds, and logits."""

from engine.models.config_fields import Config, field, positive
from engine.models.families.llama import NAMES
from engine.models.family import Family, Published
from engine.models.spec import DecoderSpec, EmbeddingSpec, HeadSpec
from engine.models.standard import read_decoder, read_is_tied, read_layer, read_rms_norm


def build_spec(config: Config) -> DecoderSpec:
    """config.json of a GraniteForCausalLM."""
    norm = read_rms_norm(config)
    logit_multiplier = 1 / field(config, "logits_scaling", float, 1.0)
    layer = read_layer(config, softmax_scale=field(config, "attention_multiplier", float, 1.0))
    return read_decoder(
        config,
        [layer] * positive(config, "num_hidden_layers"),
        norm=norm,
        head=HeadSpec(read_is_tied(config, default=False), norm, multiplier=logit_multiplier),
        embedding=EmbeddingSpec(multiplier=field(config, "embedding_multiplier", float, 1.0)),
        residual_multiplier=field(config, "residual_multiplier", float, 1.0),
    )


FAMILY = Family(
    architectures=("GraniteForCausalLM",),
    build_spec=build_spec,
    tensor_names=NAMES,
    published=Published(
        "ibm-granite/granite-3.1-8b-instruct",
        {
            "attention_multiplier": 0.0078125,
            "embedding_multiplier": 12.0,
            "hidden_size": 4096,
            "intermediate_size": 12800,
            "logits_scaling": 16.0,
            "max_position_embeddings": 131072,
            "num_attention_heads": 32,
            "num_hidden_layers": 40,
            "num_key_value_heads": 8,
            "residual_multiplier": 0.22,
            "rms_norm_eps": 1e-05,
            "rope_theta": 10000000.0,
            "tie_word_embeddings": True,
            "vocab_size": 49155,
        },
    ),
)
