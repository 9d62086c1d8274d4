"""gpt-oss: attention sinks, every other layer with a window, and experts with biases, all of them in one tensor."""

from engine.models.config_fields import Config, only
from engine.models.families.llama import NAMES
from engine.models.family import Family, Published
from engine.models.moe_config import read_moe
from engine.models.row_orders import gate_and_up_in_turns
from engine.models.spec import Activation, DecoderSpec
from engine.models.standard import all_but_every, read_decoder, read_layer, read_mlp, read_windows
from engine.models.tensor_names import tensors

ROPE = {
    "rope_type": "yarn",
    "factor": 32.0,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "truncate": False,
    "original_max_position_embeddings": 4096,
}
DEFAULTS = {
    "attention_bias": True,
    "head_dim": 64,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-5,
    "rope_theta": 150000.0,
    "sliding_window": 128,
}


def build_spec(config: Config) -> DecoderSpec:
    """config.json of a GptOssForCausalLM."""
    only(config, "hidden_act", "silu")
    only(config, "swiglu_alpha", 1.702)
    only(config, "swiglu_limit", 7.0, 7)
    if not config.get("rope_parameters") and not config.get("rope_scaling"):
        config = {**config, "rope_scaling": ROPE}
    config = {**DEFAULTS, **config}
    expert = read_mlp(config, activation=Activation.CLAMPED_SWIGLU, has_bias=True)
    mlp = read_moe(config, expert=expert, has_router_bias=True, is_renormalized=True)
    windows = read_windows(config, all_but_every(config, 2))
    return read_decoder(
        config, [read_layer(config, mlp=mlp, sliding_window=window, has_sinks=True) for window in windows]
    )


FAMILY = Family(
    architectures=("GptOssForCausalLM",),
    build_spec=build_spec,
    tensor_names=NAMES.with_layer(
        {
            "sinks": "self_attn.sinks",
            "router": "mlp.router",
            "experts.gate_up.weight": tensors(
                "mlp.experts.gate_up_proj", is_transposed=True, order=gate_and_up_in_turns
            ),
            "experts.gate_up.bias": tensors("mlp.experts.gate_up_proj_bias", order=gate_and_up_in_turns),
            "experts.down.weight": tensors("mlp.experts.down_proj", is_transposed=True),
            "experts.down.bias": tensors("mlp.experts.down_proj_bias"),
        }
    ),
    published=Published(
        "unsloth/gpt-oss-20b-BF16",
        {
            "attention_bias": True,
            "head_dim": 64,
            "hidden_size": 2880,
            "intermediate_size": 2880,
            "max_position_embeddings": 131072,
            "num_attention_heads": 64,
            "num_experts_per_tok": 4,
            "num_hidden_layers": 24,
            "num_key_value_heads": 8,
            "num_local_experts": 32,
            "rms_norm_eps": 1e-05,
            "rope_scaling": ROPE,
            "rope_theta": 150000,
            "sliding_window": 128,
            "swiglu_limit": 7.0,
            "vocab_size": 201088,
        },
    ),
    limits="openai/gpt-oss-20b and -120b are published with MXFP4 experts (`quantization_config`), which headcount does"
    " not read: convert them to bfloat16 first, or take a repository that has, such as unsloth/gpt-oss-20b-BF16.",
)
