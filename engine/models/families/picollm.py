"""picollm: nanochat's later design, with value embeddings, windows, and learned scalars on the residual stream."""

from engine.errors import ModelLoadError
from engine.models.config_fields import Config, Renamed, field, only, positive
from engine.models.family import Family, Published
from engine.models.kv_head_fields import kv_heads_field
from engine.models.row_orders import padded_to_64
from engine.models.spec import (
    DecoderSpec,
    EmbeddingSpec,
    HeadSpec,
    QKNormSpec,
    ResidualMixSpec,
    RopeSpec,
    ValueEmbeddingSpec,
)
from engine.models.standard import read_decoder, read_heads, read_layer, read_plain_mlp, read_rms_norm
from engine.models.tensor_names import TensorNames, tensors

FIELDS = {
    "n_embd": "hidden_size",
    "n_head": "num_attention_heads",
    "n_kv_head": "num_key_value_heads",
    "n_layer": "num_hidden_layers",
    "sequence_len": "max_position_embeddings",
}
DEFAULTS = {"architectures": ["PicoLlmForCausalLM"], "window_pattern": "SSSL"}
EPS = 2.0**-23
"""What torch.nn.functional.rms_norm takes in float32 where it is told nothing."""


def build_spec(config: Config) -> DecoderSpec:
    """config.json of a PicoLlmForCausalLM."""
    config = Renamed(config, FIELDS, DEFAULTS)
    only(config, "tie_word_embeddings", False)
    norm, windows = read_rms_norm(config, EPS, has_weight=False), _windows(config)
    last = len(windows) - 1
    layers = [
        read_layer(
            config,
            sliding_window=window,
            rope=RopeSpec(100000.0, read_heads(config)[2], is_reversed=True),
            qk_norm=QKNormSpec(norm, is_after_rope=True, multiplier=1.2),
            mlp=read_plain_mlp(config, "relu2", has_bias=False),
            value_embedding=ValueEmbeddingSpec(12, 3.0) if (last - layer_idx) % 2 == 0 else None,
        )
        for layer_idx, window in enumerate(windows)
    ]
    return read_decoder(
        config,
        layers,
        norm=norm,
        head=HeadSpec(is_tied=False, norm=norm, softcap=15.0),
        embedding=EmbeddingSpec(norm=norm, smear_channels=24),
        residual_mix=ResidualMixSpec(backout_layer=len(layers) // 2),
    )


def _windows(config: Config) -> list[int | None]:
    """The window of every layer: the pattern again and again, and the last layer sees all.

    `S` sees a quarter of the context, up to a multiple of 128, before the token, and the token itself.
    """
    pattern, num_layers = field(config, "window_pattern", str).upper(), positive(config, "num_hidden_layers")
    if not pattern or set(pattern) - {"S", "L"}:
        raise ModelLoadError(f"config.json: 'window_pattern' must be letters S and L, got {pattern!r}")
    num_before = -(-positive(config, "max_position_embeddings") // 512) * 128
    windows = [None if pattern[i % len(pattern)] == "L" else num_before + 1 for i in range(num_layers)]
    return [*windows[:-1], None]


FAMILY = Family(
    architectures=("PicoLlmForCausalLM",),
    build_spec=build_spec,
    tensor_names=TensorNames(
        layer_prefix="transformer.h.{}.",
        layer={
            "qkv": tensors("attn.c_q", "attn.c_k", "attn.c_v"),
            "o": "attn.c_proj",
            "value_gate": "attn.ve_gate",
            "value_embed": tensors("value_embeds.{layer}", order=padded_to_64),
            "up": "mlp.c_fc",
            "down": "mlp.c_proj",
        },
        top={
            "embed": tensors("transformer.wte", order=padded_to_64),
            "smear_gate": "smear_gate",
            "smear_scale": "smear_lambda",
            "residual_scales": "resid_lambdas",
            "first_scales": "x0_lambdas",
            "backout_scale": "backout_lambda",
            "lm_head": tensors("lm_head", order=padded_to_64),
        },
    ),
    # No checkpoint is known by name: the repository of the code, with the defaults of its config class.
    published=Published(
        "Montekkundan/llm",
        {
            "n_embd": 768,
            "n_head": 6,
            "n_kv_head": 6,
            "n_layer": 12,
            "sequence_len": 2048,
            "vocab_size": 32768,
            "window_pattern": "SSSL",
        },
    ),
    older_names=("PicoLLMForCausalLM", "picollm"),
    limits="the short windows of the modeling file that picoLLM's own export writes: they leave out the farthest token that"
    " the model was trained to see (the token itself and a quarter of the context before it), which headcount keeps.",
    with_kv_heads=kv_heads_field("n_kv_head"),
)
