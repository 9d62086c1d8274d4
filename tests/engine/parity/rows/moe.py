"""Families with experts."""

from tests.engine.parity.rows.gqa import HEADS
from tests.engine.parity.rows.row import SMALL, Row, rows

MIXTRAL = {**SMALL, "num_local_experts": 5, "num_experts_per_tok": 2}
QWEN2_MOE = {
    **SMALL,
    "moe_intermediate_size": 24,
    "num_experts": 7,
    "num_experts_per_tok": 3,
    "shared_expert_intermediate_size": 40,
}
QWEN3_MOE = {**SMALL, "head_dim": 16, "moe_intermediate_size": 24, "num_experts": 7, "num_experts_per_tok": 3}
DENSE_LAYERS = {"mlp_only_layers": [2], "decoder_sparse_step": 2, "num_hidden_layers": 4}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 150000.0,
    "factor": 4.0,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "truncate": False,
    "original_max_position_embeddings": 16,
}
GPT_OSS = {
    **SMALL,
    "head_dim": 16,
    "num_local_experts": 6,
    "num_experts_per_tok": 2,
    "rope_parameters": YARN,
    "sliding_window": 7,
}
OLMOE = {**SMALL, "num_experts": 7, "num_experts_per_tok": 3}
GRANITE_MOE = {
    **MIXTRAL,
    "attention_multiplier": 0.2,
    "embedding_multiplier": 3.0,
    "logits_scaling": 4.0,
    "residual_multiplier": 0.3,
}

ROWS: dict[str, Row] = {
    **rows(
        "Mixtral",
        MIXTRAL,
        {
            **HEADS,
            "head-dim": {"head_dim": 24, "tie_word_embeddings": True},
            "window": {"sliding_window": 7},
            "one-expert-a-token": {"num_experts_per_tok": 1},
            "all-experts": {"num_experts_per_tok": 5},
        },
    ),
    **rows(
        "Qwen2Moe",
        QWEN2_MOE,
        {
            **HEADS,
            "renormalized-no-biases": {"norm_topk_prob": True, "qkv_bias": False},
            "dense-layers-tied": {**DENSE_LAYERS, "tie_word_embeddings": True},
            "window": {"use_sliding_window": True, "sliding_window": 7, "max_window_layers": 2},
        },
    ),
    **rows(
        "Qwen3Moe",
        QWEN3_MOE,
        {
            **HEADS,
            "renormalized-biases": {"norm_topk_prob": True, "attention_bias": True},
            "dense-layers-tied": {**DENSE_LAYERS, "tie_word_embeddings": True},
            "window": {"use_sliding_window": True, "sliding_window": 7},
        },
    ),
    **rows(
        "GptOss",
        GPT_OSS,
        {
            **HEADS,
            "no-biases-tied": {"attention_bias": False, "tie_word_embeddings": True},
            "no-window": {"layer_types": ["full_attention"] * 3, "num_experts_per_tok": 6},
            "clamped": {"hidden_size": 216, "num_hidden_layers": 2},
            "truncated-yarn": {"rope_parameters": {**YARN, "truncate": True}},
        },
    ),
    **rows(
        "Olmoe",
        OLMOE,
        {
            **HEADS,
            "renormalized-biases-tied": {"norm_topk_prob": True, "attention_bias": True, "tie_word_embeddings": True},
        },
    ),
    **rows(
        "GraniteMoe",
        GRANITE_MOE,
        {
            **HEADS,
            "biases-tied": {"attention_bias": True, "tie_word_embeddings": True},
            "no-factors": {name: 1.0 for name in GRANITE_MOE if name not in MIXTRAL},
        },
    ),
}
