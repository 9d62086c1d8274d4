"""StarCoder and SantaCoder: GPT-2 whose query heads share one key/value head, or not."""

from typing import Any

from engine.models.config_fields import Config, Renamed, field, only, positive
from engine.models.families import gpt2
from engine.models.family import Family, Published
from engine.models.kv_head_fields import multi_query_flag
from engine.models.row_orders import grouped_qkv
from engine.models.spec import DecoderSpec
from engine.models.standard import read_layer, read_plain_mlp
from engine.models.tensor_names import tensors

NAMES = gpt2.NAMES.with_layer(
    {
        "qkv": tensors("attn.c_attn", order=grouped_qkv),
        "o": "attn.c_proj",
        "up": "mlp.c_fc",
        "down": "mlp.c_proj",
    }
)


def build_spec(config: Config) -> DecoderSpec:
    """config.json of a GPTBigCodeForCausalLM."""
    config = Renamed(config, gpt2.FIELDS)
    is_mqa = field(config, "multi_query", bool, default=True)
    num_kv_heads = 1 if is_mqa else positive(config, "num_attention_heads")
    only(config, "num_key_value_heads", num_kv_heads)
    layer = read_layer(
        config,
        num_kv_heads=num_kv_heads,
        rope=None,
        mlp=read_plain_mlp(config, "gelu_pytorch_tanh"),
        softmax_scale=gpt2.read_scale(config),
        has_qkv_bias=True,
        has_o_bias=True,
    )
    return gpt2.read_gpt2(config, [layer] * positive(config, "num_hidden_layers"))


def with_kv_heads(config: Config, num_kv_heads: int) -> dict[str, Any]:
    """One head or all."""
    stated = {**config, "num_key_value_heads": num_kv_heads}
    return multi_query_flag(stated, num_kv_heads, positive(Renamed(config, gpt2.FIELDS), "num_attention_heads"))


FAMILY = Family(
    architectures=("GPTBigCodeForCausalLM",),
    build_spec=build_spec,
    tensor_names=NAMES,
    published=Published(
        "bigcode/starcoder",
        {
            "activation_function": "gelu",
            "multi_query": True,
            "n_embd": 6144,
            "n_head": 48,
            "n_inner": 24576,
            "n_layer": 40,
            "n_positions": 8192,
            "vocab_size": 49152,
        },
    ),
    with_kv_heads=with_kv_heads,
)
