"""GPT-Neo: GPT-2 with scores that are not scaled, and a window in every other layer."""

from engine.errors import ModelLoadError
from engine.models.config_fields import Config, Renamed, only, positive
from engine.models.families import gpt2
from engine.models.family import Family, Published
from engine.models.kv_head_fields import mha_only
from engine.models.spec import DecoderSpec
from engine.models.standard import read_layer, read_plain_mlp
from engine.models.tensor_names import tensors

FIELDS = {**gpt2.FIELDS, "num_heads": "num_attention_heads", "num_layers": "num_hidden_layers"}
NAMES = gpt2.NAMES.with_layer(
    {
        "qkv": tensors("attn.attention.q_proj", "attn.attention.k_proj", "attn.attention.v_proj"),
        "o": "attn.attention.out_proj",
        "up": "mlp.c_fc",
        "down": "mlp.c_proj",
    }
)


def build_spec(config: Config) -> DecoderSpec:
    """config.json of a GPTNeoForCausalLM."""
    config = Renamed(config, FIELDS)
    window, mlp = positive(config, "window_size", 256), read_plain_mlp(config, "gelu_new")
    layers = [
        read_layer(
            config,
            rope=None,
            mlp=mlp,
            softmax_scale=1.0,
            sliding_window=window if kind == "local" else None,
            has_qkv_bias=False,
            has_o_bias=True,
        )
        for kind in _layer_kinds(config)
    ]
    return gpt2.read_gpt2(config, layers)


def _layer_kinds(config: Config) -> list[str]:
    """`global` or `local` a layer, from `attention_types`: [[["global", "local"], 12]] says both in turn, 12 times."""
    num_layers = positive(config, "num_hidden_layers")
    types = config.get("attention_types") or [[["global", "local"], num_layers // 2]]
    try:
        kinds = [kind for pattern, times in types for kind in list(pattern) * times]
    except (TypeError, ValueError):
        kinds = []
    if len(kinds) != num_layers or not set(kinds) <= {"global", "local"}:
        raise ModelLoadError(
            f"config.json: 'attention_types' must name global or local for each of {num_layers} layers, got {types!r}"
        )
    only(config, "attention_layers", kinds)
    return kinds


FAMILY = Family(
    architectures=("GPTNeoForCausalLM",),
    build_spec=build_spec,
    tensor_names=NAMES,
    published=Published(
        "EleutherAI/gpt-neo-1.3B",
        {
            "attention_types": [[["global", "local"], 12]],
            "hidden_size": 2048,
            "max_position_embeddings": 2048,
            "num_heads": 16,
            "num_layers": 24,
            "vocab_size": 50257,
            "window_size": 256,
        },
    ),
    with_kv_heads=mha_only,
)
