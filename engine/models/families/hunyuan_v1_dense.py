"""Hunyuan 0.5B to 7B, dense: Llama with queries and keys normalised after they have turned, and a rope of stretched base."""

from engine.models.config_fields import Config, only, optional_float, positive
from engine.models.families.llama import NAMES as LLAMA_NAMES
from engine.models.family import Family, Published
from engine.models.rope_config import read_rope, rope_fields
from engine.models.spec import DecoderSpec, DynamicScaling, QKNormSpec, RopeSpec
from engine.models.standard import read_decoder, read_heads, read_layer, read_rms_norm

NAMES = LLAMA_NAMES.with_layer({"q_norm": "self_attn.query_layernorm", "k_norm": "self_attn.key_layernorm"})


def build_spec(config: Config) -> DecoderSpec:
    """config.json of a HunYuanDenseV1ForCausalLM."""
    config = {"rms_norm_eps": 1e-5, **config}
    only(config, "use_cla", False)
    only(config, "use_qk_norm", True)
    qk_norm = QKNormSpec(read_rms_norm(config), is_after_rope=True)
    layer = read_layer(config, rope=_read_rope(config), qk_norm=qk_norm)
    return read_decoder(config, [layer] * positive(config, "num_hidden_layers"))


def _read_rope(config: Config) -> RopeSpec:
    """What these configs call dynamic does not depend on the length, where they state an alpha."""
    head_dim = read_heads(config)[2]
    rope, alpha = read_rope(config, head_dim), optional_float(rope_fields(config), "alpha")
    if not alpha or not isinstance(rope.scaling, DynamicScaling):
        return rope
    return RopeSpec(rope.theta * alpha ** (head_dim / (head_dim - 2)), head_dim)


FAMILY = Family(
    architectures=("HunYuanDenseV1ForCausalLM",),
    build_spec=build_spec,
    tensor_names=NAMES,
    published=Published(
        "tencent/Hunyuan-7B-Instruct",
        {
            "head_dim": 128,
            "hidden_size": 4096,
            "intermediate_size": 14336,
            "max_position_embeddings": 32768,
            "num_attention_heads": 32,
            "num_hidden_layers": 32,
            "num_key_value_heads": 8,
            "rms_norm_eps": 1e-05,
            "rope_scaling": {"type": "dynamic", "alpha": 1000.0, "factor": 1.0},
            "rope_theta": 10000.0,
            "tie_word_embeddings": True,
            "use_cla": False,
            "use_qk_norm": True,
            "vocab_size": 128167,
        },
    ),
)
