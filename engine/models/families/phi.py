"""Phi 1, 1.5 and 2: GPT-J with biases everywhere, and a first part of each head that turns as in Llama."""

from engine.models.config_fields import Config, Renamed, field
from engine.models.families.gptj import read_gptj
from engine.models.families.llama import NAMES as LLAMA_NAMES
from engine.models.family import Family, Published
from engine.models.spec import DecoderSpec, QKNormSpec
from engine.models.standard import read_layer, read_layer_norm, read_plain_mlp

NAMES = LLAMA_NAMES.with_layer(
    {
        "q_norm": "self_attn.q_layernorm",
        "k_norm": "self_attn.k_layernorm",
        "o": "self_attn.dense",
        "up": "mlp.fc1",
        "down": "mlp.fc2",
    }
).with_top({"norm": "model.final_layernorm"})


def build_spec(config: Config) -> DecoderSpec:
    """config.json of a PhiForCausalLM."""
    config = Renamed(config, defaults={"partial_rotary_factor": 0.5})
    qk_norm = QKNormSpec(read_layer_norm(config)) if field(config, "qk_layernorm", bool, default=False) else None
    mlp = read_plain_mlp(config, "gelu_new")
    return read_gptj(config, read_layer(config, mlp=mlp, qk_norm=qk_norm, has_qkv_bias=True, has_o_bias=True))


FAMILY = Family(
    architectures=("PhiForCausalLM",),
    build_spec=build_spec,
    tensor_names=NAMES,
    published=Published(
        "microsoft/phi-2",
        {
            "hidden_size": 2560,
            "intermediate_size": 10240,
            "max_position_embeddings": 2048,
            "num_attention_heads": 32,
            "num_hidden_layers": 32,
            "partial_rotary_factor": 0.4,
            "vocab_size": 51200,
        },
    ),
)
