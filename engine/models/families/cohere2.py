"""Command R7B and A: Command R with three layers that slide and turn to one that does neither."""

from engine.models.config_fields import Config, only, positive
from engine.models.families.cohere import read_cohere_decoder, read_cohere_rope
from engine.models.families.llama import NAMES
from engine.models.family import Family, Published
from engine.models.spec import DecoderSpec
from engine.models.standard import all_but_every, read_layer, read_windows


def build_spec(config: Config) -> DecoderSpec:
    """config.json of a Cohere2ForCausalLM."""
    config = {"sliding_window": 4096, **config}
    for key in ("use_gated_activation", "use_parallel_block"):
        only(config, key, True)
    only(config, "use_qk_norm", False)
    only(config, "position_embedding_type", "rope_gptj")
    rope = read_cohere_rope(config)
    windows = read_windows(config, all_but_every(config, positive(config, "sliding_window_pattern", 4)))
    layers = [read_layer(config, rope=rope if window else None, sliding_window=window) for window in windows]
    return read_cohere_decoder(config, layers)


FAMILY = Family(
    architectures=("Cohere2ForCausalLM",),
    build_spec=build_spec,
    tensor_names=NAMES,
    published=Published(
        "CohereForAI/c4ai-command-r7b-12-2024",
        {
            "hidden_size": 4096,
            "intermediate_size": 14336,
            "layer_norm_eps": 1e-05,
            "logit_scale": 0.25,
            "max_position_embeddings": 132096,
            "num_attention_heads": 32,
            "num_hidden_layers": 32,
            "num_key_value_heads": 8,
            "rope_theta": 50000,
            "sliding_window": 4096,
            "sliding_window_pattern": 4,
            "use_qk_norm": False,
            "vocab_size": 256000,
        },
    ),
)
