"""OLMoE: many narrow experts, queries and keys normalised over all heads together."""

from engine.models.config_fields import Config, only, positive
from engine.models.families.qwen3_moe import NAMES
from engine.models.family import Family, Published
from engine.models.moe_config import read_moe
from engine.models.spec import DecoderSpec, QKNormScope, QKNormSpec
from engine.models.standard import read_decoder, read_layer, read_rms_norm

DEFAULTS = {"rms_norm_eps": 1e-5}


def build_spec(config: Config) -> DecoderSpec:
    """config.json of an OlmoeForCausalLM."""
    only(config, "clip_qkv", None)
    config = {**DEFAULTS, **config}
    qk_norm = QKNormSpec(read_rms_norm(config), QKNormScope.WIDTH)
    layer = read_layer(config, mlp=read_moe(config), qk_norm=qk_norm)
    return read_decoder(config, [layer] * positive(config, "num_hidden_layers"))


FAMILY = Family(
    architectures=("OlmoeForCausalLM",),
    build_spec=build_spec,
    tensor_names=NAMES,
    published=Published(
        "allenai/OLMoE-1B-7B-0924",
        {
            "hidden_size": 2048,
            "intermediate_size": 1024,
            "max_position_embeddings": 4096,
            "norm_topk_prob": False,
            "num_attention_heads": 16,
            "num_experts": 64,
            "num_experts_per_tok": 8,
            "num_hidden_layers": 16,
            "num_key_value_heads": 16,
            "rms_norm_eps": 1e-05,
            "rope_theta": 10000.0,
            "vocab_size": 50304,
        },
    ),
    limits="`clip_qkv` is refused: OLMoE clips after the norms of queries and keys, and no published checkpoint does so.",
)
