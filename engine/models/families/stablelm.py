"""StableLM: Llama with LayerNorm and a quarter of each head that turns; some have a norm for every head."""

from engine.models.config_fields import Config, Renamed, field, positive
from engine.models.families.llama import NAMES as LLAMA_NAMES
from engine.models.family import Family, Published
from engine.models.spec import DecoderSpec, QKNormScope, QKNormSpec
from engine.models.standard import read_decoder, read_layer, read_layer_norm

NAMES = LLAMA_NAMES.with_layer(
    {"q_norm": "self_attn.q_layernorm.norms.{member}", "k_norm": "self_attn.k_layernorm.norms.{member}"}
)


def build_spec(config: Config) -> DecoderSpec:
    """config.json of a StableLmForCausalLM."""
    config = Renamed(config, defaults={"partial_rotary_factor": 0.25})
    qk_norm = QKNormSpec(read_layer_norm(config, has_bias=False), QKNormScope.OWN_HEAD)
    layer = read_layer(
        config,
        qk_norm=qk_norm if field(config, "qk_layernorm", bool, default=False) else None,
        has_qkv_bias=field(config, "use_qkv_bias", bool, default=False),
        has_o_bias=False,
    )
    is_parallel = field(config, "use_parallel_residual", bool, default=False)
    return read_decoder(
        config,
        [layer] * positive(config, "num_hidden_layers"),
        norm=read_layer_norm(config),
        is_parallel=is_parallel,
        has_shared_norm=is_parallel,
    )


FAMILY = Family(
    architectures=("StableLmForCausalLM",),
    build_spec=build_spec,
    tensor_names=NAMES,
    published=Published(
        "stabilityai/stablelm-3b-4e1t",
        {
            "hidden_size": 2560,
            "intermediate_size": 6912,
            "max_position_embeddings": 4096,
            "num_attention_heads": 32,
            "num_hidden_layers": 32,
            "num_key_value_heads": 32,
            "partial_rotary_factor": 0.25,
            "vocab_size": 50304,
        },
    ),
)
