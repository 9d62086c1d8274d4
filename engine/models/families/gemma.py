"""Gemma 1: Llama with wide heads, scaled embeddings, a tanh GELU, and norm weights kept as their distance from 1."""

from collections.abc import Sequence
from typing import Any

from engine.models.config_fields import Config, only, optional_float, positive
from engine.models.families.llama import NAMES
from engine.models.family import Family, Published
from engine.models.spec import DecoderSpec, EmbeddingSpec, HeadSpec, LayerSpec
from engine.models.standard import read_decoder, read_is_tied, read_layer, read_rms_norm

DEFAULTS: dict[str, Any] = {"head_dim": 256, "hidden_act": "gelu_pytorch_tanh"}


def read_gemma_decoder(config: Config, layers: Sequence[LayerSpec], **changes: Any) -> DecoderSpec:
    """A decoder of these layers between Gemma's embedding and head; `changes` are fields of DecoderSpec."""
    only(config, "use_bidirectional_attention", False)
    norm = read_rms_norm(config, weight_offset=1.0)
    softcap = optional_float(config, "final_logit_softcapping")
    head = HeadSpec(read_is_tied(config, default=True), norm, softcap=softcap)
    embedding = EmbeddingSpec(multiplier=positive(config, "hidden_size") ** 0.5)
    return read_decoder(config, layers, norm=norm, head=head, embedding=embedding, **changes)


def build_spec(config: Config) -> DecoderSpec:
    """config.json of a GemmaForCausalLM."""
    config = {**DEFAULTS, **config}
    if config["hidden_act"] == "gelu":
        config["hidden_act"] = DEFAULTS["hidden_act"]  # early configs name the one, and were trained with the other
    return read_gemma_decoder(config, [read_layer(config)] * positive(config, "num_hidden_layers"))


FAMILY = Family(
    architectures=("GemmaForCausalLM",),
    build_spec=build_spec,
    tensor_names=NAMES,
    published=Published(
        "google/gemma-2b",
        {
            "head_dim": 256,
            "hidden_act": "gelu",
            "hidden_size": 2048,
            "intermediate_size": 16384,
            "max_position_embeddings": 8192,
            "num_attention_heads": 8,
            "num_hidden_layers": 18,
            "num_key_value_heads": 1,
            "vocab_size": 256000,
        },
    ),
)
