"""GPT-J: attention and MLP side by side behind one norm, pairs of neighbouring dimensions turn, a bias on the logits."""

from engine.models.config_fields import Config, Renamed, positive
from engine.models.families import gpt2
from engine.models.family import Family, Published
from engine.models.kv_head_fields import mha_only
from engine.models.spec import DecoderSpec, HeadSpec, LayerSpec, RopeSpec
from engine.models.standard import read_decoder, read_is_tied, read_layer, read_layer_norm, read_plain_mlp
from engine.models.tensor_names import tensors

NAMES = gpt2.NAMES.with_layer(
    {
        "qkv": tensors("attn.q_proj", "attn.k_proj", "attn.v_proj"),
        "o": "attn.out_proj",
        "up": "mlp.fc_in",
        "down": "mlp.fc_out",
    }
)


def build_spec(config: Config) -> DecoderSpec:
    """config.json of a GPTJForCausalLM."""
    config = Renamed(config, gpt2.FIELDS)
    rope = RopeSpec(10000.0, positive(config, "rotary_dim", 64), is_interleaved=True)
    return read_gptj(config, read_layer(config, rope=rope, mlp=read_plain_mlp(config, "gelu_new")))


def read_gptj(config: Config, layer: LayerSpec) -> DecoderSpec:
    """A decoder of such layers, attention and MLP side by side behind one norm, with a bias on the logits."""
    norm = read_layer_norm(config)
    return read_decoder(
        config,
        [layer] * positive(config, "num_hidden_layers"),
        norm=norm,
        head=HeadSpec(is_tied=read_is_tied(config, default=False), norm=norm, has_bias=True),
        is_parallel=True,
        has_shared_norm=True,
    )


FAMILY = Family(
    architectures=("GPTJForCausalLM",),
    build_spec=build_spec,
    tensor_names=NAMES,
    published=Published(
        "EleutherAI/gpt-j-6b",
        {"n_embd": 4096, "n_head": 16, "n_layer": 28, "n_positions": 2048, "rotary_dim": 64, "vocab_size": 50400},
    ),
    with_kv_heads=mha_only,
)
