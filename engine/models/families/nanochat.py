"""nanochat, as transformers has it: norms without weights, queries and keys normalised after they turned backwards."""

import msgspec

from engine.models.config_fields import Config, optional_float, positive
from engine.models.families.llama import NAMES
from engine.models.family import Family, Published
from engine.models.rope_config import read_rope
from engine.models.spec import DecoderSpec, EmbeddingSpec, HeadSpec, QKNormSpec
from engine.models.standard import read_decoder, read_heads, read_is_tied, read_layer, read_mlp, read_rms_norm

DEFAULTS = {"final_logit_softcapping": 15.0, "hidden_act": "relu2"}


def build_spec(config: Config) -> DecoderSpec:
    """config.json of a NanoChatForCausalLM."""
    config = {**DEFAULTS, **config}
    norm = read_rms_norm(config, has_weight=False)
    layer = read_layer(
        config,
        rope=msgspec.structs.replace(read_rope(config, read_heads(config)[2]), is_reversed=True),
        qk_norm=QKNormSpec(norm, is_after_rope=True),
        mlp=read_mlp(config, is_gated=False, has_bias=False),
    )
    return read_decoder(
        config,
        [layer] * positive(config, "num_hidden_layers"),
        norm=norm,
        head=HeadSpec(
            read_is_tied(config, default=False), norm, softcap=optional_float(config, "final_logit_softcapping")
        ),
        embedding=EmbeddingSpec(norm=norm),
    )


FAMILY = Family(
    architectures=("NanoChatForCausalLM",),
    build_spec=build_spec,
    tensor_names=NAMES.with_layer({"up": "mlp.fc1", "down": "mlp.fc2"}),
    published=Published(
        "karpathy/nanochat-d32",
        {
            "hidden_size": 2048,
            "intermediate_size": 8192,
            "max_position_embeddings": 2048,
            "num_attention_heads": 16,
            "num_hidden_layers": 32,
            "num_key_value_heads": 16,
            "vocab_size": 65536,
        },
    ),
)
