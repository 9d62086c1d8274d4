"""Llama 2 and 3, SmolLM2 and what is built like them: pre-norm, rope, gated SiLU MLP, any number of KV heads."""

from engine.models.config_fields import Config, positive
from engine.models.family import Family, Published
from engine.models.spec import DecoderSpec
from engine.models.standard import read_decoder, read_layer
from engine.models.tensor_names import TensorNames, tensors

NAMES = TensorNames(
    layer_prefix="model.layers.{}.",
    layer={
        "attention_norm": "input_layernorm",
        "qkv": tensors("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
        "o": "self_attn.o_proj",
        "mlp_norm": "post_attention_layernorm",
        "gate_up": tensors("mlp.gate_proj", "mlp.up_proj"),
        "down": "mlp.down_proj",
    },
    top={"embed": "model.embed_tokens", "norm": "model.norm", "lm_head": "lm_head"},
    ignored=(r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq",),
)
"""Most families since have kept these names."""


def build_spec(config: Config) -> DecoderSpec:
    """config.json of a LlamaForCausalLM."""
    return read_decoder(config, [read_layer(config)] * positive(config, "num_hidden_layers"))


FAMILY = Family(
    architectures=("LlamaForCausalLM",),
    build_spec=build_spec,
    tensor_names=NAMES,
    published=Published(
        "meta-llama/Llama-3.1-8B",
        {
            "hidden_size": 4096,
            "intermediate_size": 14336,
            "max_position_embeddings": 131072,
            "num_attention_heads": 32,
            "num_hidden_layers": 32,
            "num_key_value_heads": 8,
            "rope_theta": 500000.0,
            "rope_scaling": {
                "rope_type": "llama3",
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 8192,
            },
            "vocab_size": 128256,
        },
    ),
)
