"""OPT: learned positions that begin at 2, ReLU, biases; 350M has its norms after the sums and narrower embeddings."""

from engine.models.config_fields import Config, Renamed, field, positive
from engine.models.family import Family, Published
from engine.models.kv_head_fields import mha_only
from engine.models.spec import DecoderSpec, EmbeddingSpec, HeadSpec, NormKind, NormPlace, NormSpec
from engine.models.standard import read_decoder, read_is_tied, read_layer, read_plain_mlp
from engine.models.tensor_names import RowOrder, TensorNames, tensors

NUM_UNUSED_POSITIONS = 2
"""Rows before the first position's, left over from a padding token."""


def _used_positions(spec: DecoderSpec, _: int) -> RowOrder:
    stop = spec.max_position_embeddings + NUM_UNUSED_POSITIONS
    return RowOrder(stop, tuple(range(NUM_UNUSED_POSITIONS, stop)))


NAMES = TensorNames(
    layer_prefix="model.decoder.layers.{}.",
    layer={
        "attention_norm": "self_attn_layer_norm",
        "qkv": tensors("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
        "o": "self_attn.out_proj",
        "mlp_norm": "final_layer_norm",
        "up": "fc1",
        "down": "fc2",
    },
    top={
        "embed": "model.decoder.embed_tokens",
        "embed_proj": "model.decoder.project_in",
        "position_embed": tensors("model.decoder.embed_positions", order=_used_positions),
        "norm": "model.decoder.final_layer_norm",
        "head_proj": "model.decoder.project_out",
        "lm_head": "lm_head",
    },
    optional_prefix="model.",
)


def build_spec(config: Config) -> DecoderSpec:
    """config.json of an OPTForCausalLM."""
    config = Renamed(config, {"ffn_dim": "intermediate_size", "activation_function": "hidden_act"})
    has_bias = field(config, "enable_bias", bool, default=True)
    has_weight = field(config, "layer_norm_elementwise_affine", bool, default=True)
    norm = NormSpec(NormKind.LAYER, 1e-5, has_weight=has_weight, has_bias=has_weight)
    is_pre = field(config, "do_layer_norm_before", bool, default=True)
    has_last_norm = is_pre and not field(config, "_remove_final_layer_norm", bool, default=False)
    hidden_size = positive(config, "hidden_size")
    width = positive(config, "word_embed_proj_dim", hidden_size)
    mlp = read_plain_mlp(config, "relu", has_bias=has_bias)
    layer = read_layer(config, rope=None, mlp=mlp, has_qkv_bias=has_bias, has_o_bias=has_bias)
    return read_decoder(
        config,
        [layer] * positive(config, "num_hidden_layers"),
        norm=norm,
        norm_place=NormPlace.PRE if is_pre else NormPlace.POST,
        head=HeadSpec(is_tied=read_is_tied(config, default=True), norm=norm if has_last_norm else None),
        embedding=EmbeddingSpec(width=None if width == hidden_size else width, has_positions=True),
    )


FAMILY = Family(
    architectures=("OPTForCausalLM",),
    build_spec=build_spec,
    tensor_names=NAMES,
    published=Published(
        "facebook/opt-125m",
        {
            "activation_function": "relu",
            "do_layer_norm_before": True,
            "ffn_dim": 3072,
            "hidden_size": 768,
            "max_position_embeddings": 2048,
            "num_attention_heads": 12,
            "num_hidden_layers": 12,
            "vocab_size": 50272,
            "word_embed_proj_dim": 768,
        },
    ),
    with_kv_heads=mha_only,
)
