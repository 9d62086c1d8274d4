"""Qwen1.5-MoE and Qwen2-MoE: many narrow experts beside one that every token goes through, as far as its gate lets it."""

from engine.models.config_fields import Config, field, positive
from engine.models.families.llama import NAMES as LLAMA_NAMES
from engine.models.families.qwen2 import read_qwen_windows
from engine.models.family import Family, Published
from engine.models.moe_config import is_sparse, read_moe
from engine.models.spec import DecoderSpec, MLPSpec, MoESpec
from engine.models.standard import read_decoder, read_layer, read_mlp
from engine.models.tensor_names import tensors

DEFAULTS = {"max_window_layers": 28, "num_key_value_heads": 16}
EXPERT = "mlp.experts.{member}"
NAMES = LLAMA_NAMES.with_layer(
    {
        "router": "mlp.gate",
        "experts.gate_up": tensors(f"{EXPERT}.gate_proj", f"{EXPERT}.up_proj"),
        "experts.down": f"{EXPERT}.down_proj",
        "shared.gate_up": tensors("mlp.shared_expert.gate_proj", "mlp.shared_expert.up_proj"),
        "shared.down": "mlp.shared_expert.down_proj",
        "shared_gate": "mlp.shared_expert_gate",
    }
)


def build_spec(config: Config) -> DecoderSpec:
    """config.json of a Qwen2MoeForCausalLM."""
    config = {**DEFAULTS, **config}
    has_bias = field(config, "qkv_bias", bool, default=True)
    num_layers, num_sliding = positive(config, "num_hidden_layers"), field(config, "max_window_layers", int)
    windows = read_qwen_windows(config, [i % 2 == 0 and i < num_sliding for i in range(num_layers)])
    layers = [
        read_layer(config, mlp=_mlp(config, i), sliding_window=window, has_qkv_bias=has_bias, has_o_bias=False)
        for i, window in enumerate(windows)
    ]
    return read_decoder(config, layers)


def _mlp(config: Config, layer_idx: int) -> MLPSpec | MoESpec:
    if not is_sparse(config, layer_idx):
        return read_mlp(config)
    return read_moe(
        config,
        expert=read_mlp(config, intermediate_size=positive(config, "moe_intermediate_size", 1408)),
        shared=read_mlp(config, intermediate_size=positive(config, "shared_expert_intermediate_size", 5632)),
        has_shared_gate=True,
    )


FAMILY = Family(
    architectures=("Qwen2MoeForCausalLM",),
    build_spec=build_spec,
    tensor_names=NAMES,
    published=Published(
        "Qwen/Qwen1.5-MoE-A2.7B-Chat",
        {
            "hidden_size": 2048,
            "intermediate_size": 5632,
            "max_position_embeddings": 32768,
            "moe_intermediate_size": 1408,
            "norm_topk_prob": False,
            "num_attention_heads": 16,
            "num_experts": 60,
            "num_experts_per_tok": 4,
            "num_hidden_layers": 24,
            "num_key_value_heads": 16,
            "rms_norm_eps": 1e-06,
            "rope_theta": 1000000.0,
            "shared_expert_intermediate_size": 5632,
            "vocab_size": 151936,
        },
    ),
)
