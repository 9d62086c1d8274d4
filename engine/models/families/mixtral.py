"""Mixtral: Mistral with experts in place of the MLP, each of its own tensors."""

from engine.models.config_fields import Config, positive
from engine.models.families.llama import NAMES
from engine.models.family import Family, Published
from engine.models.moe_config import read_moe
from engine.models.spec import DecoderSpec
from engine.models.standard import read_decoder, read_layer, read_windows
from engine.models.tensor_names import tensors

DEFAULTS = {"num_key_value_heads": 8, "rms_norm_eps": 1e-5, "rope_theta": 1e6}
EXPERT = "block_sparse_moe.experts.{member}"


def build_spec(config: Config) -> DecoderSpec:
    """config.json of a MixtralForCausalLM."""
    config = {**DEFAULTS, **config}
    mlp = read_moe(config, is_renormalized=True)
    windows = read_windows(config, [True] * positive(config, "num_hidden_layers"))
    return read_decoder(config, [read_layer(config, mlp=mlp, sliding_window=window) for window in windows])


FAMILY = Family(
    architectures=("MixtralForCausalLM",),
    build_spec=build_spec,
    tensor_names=NAMES.with_layer(
        {
            "router": "block_sparse_moe.gate",
            "experts.gate_up": tensors(f"{EXPERT}.w1", f"{EXPERT}.w3"),
            "experts.down": f"{EXPERT}.w2",
        }
    ),
    published=Published(
        "mistralai/Mixtral-8x7B-v0.1",
        {
            "hidden_size": 4096,
            "intermediate_size": 14336,
            "max_position_embeddings": 32768,
            "num_attention_heads": 32,
            "num_experts_per_tok": 2,
            "num_hidden_layers": 32,
            "num_key_value_heads": 8,
            "num_local_experts": 8,
            "rms_norm_eps": 1e-05,
            "rope_theta": 1000000.0,
            "vocab_size": 32000,
        },
    ),
)
