"""Qwen3-MoE: Qwen3's normalised queries and keys, and many narrow experts, none shared."""

from engine.models.config_fields import Config, positive
from engine.models.families.qwen2 import read_qwen_windows
from engine.models.families.qwen2_moe import NAMES as QWEN2_NAMES
from engine.models.family import Family, Published
from engine.models.moe_config import is_sparse, read_moe
from engine.models.spec import DecoderSpec, MLPSpec, MoESpec, QKNormSpec
from engine.models.standard import read_decoder, read_layer, read_mlp, read_rms_norm

DEFAULTS = {"num_key_value_heads": 4}
NAMES = QWEN2_NAMES.with_layer({"q_norm": "self_attn.q_norm", "k_norm": "self_attn.k_norm"})


def build_spec(config: Config) -> DecoderSpec:
    """config.json of a Qwen3MoeForCausalLM."""
    config = {**DEFAULTS, **config}
    windows = read_qwen_windows(config, [True] * positive(config, "num_hidden_layers"))
    qk_norm = QKNormSpec(read_rms_norm(config))
    layers = [
        read_layer(config, mlp=_mlp(config, i), sliding_window=window, qk_norm=qk_norm)
        for i, window in enumerate(windows)
    ]
    return read_decoder(config, layers)


def _mlp(config: Config, layer_idx: int) -> MLPSpec | MoESpec:
    if not is_sparse(config, layer_idx):
        return read_mlp(config)
    return read_moe(config, expert=read_mlp(config, intermediate_size=positive(config, "moe_intermediate_size", 768)))


FAMILY = Family(
    architectures=("Qwen3MoeForCausalLM",),
    build_spec=build_spec,
    tensor_names=NAMES,
    published=Published(
        "Qwen/Qwen3-30B-A3B",
        {
            "head_dim": 128,
            "hidden_size": 2048,
            "intermediate_size": 6144,
            "max_position_embeddings": 40960,
            "moe_intermediate_size": 768,
            "norm_topk_prob": True,
            "num_attention_heads": 32,
            "num_experts": 128,
            "num_experts_per_tok": 8,
            "num_hidden_layers": 48,
            "num_key_value_heads": 4,
            "rms_norm_eps": 1e-06,
            "rope_theta": 1000000.0,
            "vocab_size": 151936,
        },
    ),
)
