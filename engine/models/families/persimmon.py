"""Persimmon: Phi's biases, partial rope and norms of queries and keys, attention before the MLP, squared ReLU."""

from engine.models.config_fields import Config, Renamed, field, positive
from engine.models.families import gpt_neox, phi
from engine.models.family import Family, Published
from engine.models.kv_head_fields import mha_only
from engine.models.row_orders import grouped_qkv
from engine.models.spec import DecoderSpec, QKNormSpec
from engine.models.standard import read_decoder, read_layer, read_layer_norm, read_plain_mlp
from engine.models.tensor_names import tensors

NAMES = phi.NAMES.with_layer({name: gpt_neox.NAMES.layer[name] for name in ("up", "down")}).with_layer(
    {"qkv": tensors("self_attn.query_key_value", order=grouped_qkv)}
)


def build_spec(config: Config) -> DecoderSpec:
    """config.json of a PersimmonForCausalLM."""
    config = Renamed(config, defaults={"partial_rotary_factor": 0.5})
    norm, mlp = read_layer_norm(config), read_plain_mlp(config, "relu2")
    qk_norm = QKNormSpec(norm) if field(config, "qk_layernorm", bool, default=True) else None
    layer = read_layer(config, mlp=mlp, qk_norm=qk_norm, has_qkv_bias=True, has_o_bias=True)
    return read_decoder(config, [layer] * positive(config, "num_hidden_layers"), norm=norm)


FAMILY = Family(
    architectures=("PersimmonForCausalLM",),
    build_spec=build_spec,
    tensor_names=NAMES,
    published=Published(
        "adept/persimmon-8b-base",
        {
            **{"hidden_size": 4096, "intermediate_size": 16384, "max_position_embeddings": 16384},
            **{"num_attention_heads": 64, "num_hidden_layers": 36, "rope_theta": 25000.0, "vocab_size": 262144},
        },
    ),
    with_kv_heads=mha_only,
)
