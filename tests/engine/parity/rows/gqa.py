"""Families whose query heads share key/value heads in groups; they have MHA and MQA as limits."""

from tests.engine.parity.rows.row import SMALL, Row, rows

LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
HEADS = {
    "mha": {"num_key_value_heads": 6},
    "gqa": {"num_key_value_heads": 2},
    "mqa": {"num_key_value_heads": 1},
}

QWEN_WINDOW = {"use_sliding_window": True, "sliding_window": 7, "max_window_layers": 1}
CAPS = {"attn_logit_softcapping": 1.5, "final_logit_softcapping": 4.0}
GEMMA3 = {**SMALL, "num_hidden_layers": 4, "head_dim": 12, "sliding_window": 7, "query_pre_attn_scalar": 10}
VISION = {
    **{"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2},
    **{"image_size": 8, "patch_size": 4},
}

ROWS: dict[str, Row] = {
    **rows(
        "Llama",
        SMALL,
        {
            **HEADS,
            "head-dim": {"head_dim": 24},
            "biases-tied": {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True},
            "llama3-rope": {"rope_parameters": LLAMA3},
            "odd-heads": {"hidden_size": 72, "num_attention_heads": 9, "num_key_value_heads": 3},
        },
    ),
    **rows("Mistral", SMALL, {**HEADS, "window": {"sliding_window": 7}, "no-window": {"sliding_window": None}}),
    **rows(
        "Qwen2",
        SMALL,
        {
            **HEADS,
            "tied": {"tie_word_embeddings": True},
            "window": QWEN_WINDOW,
            "no-window": {**QWEN_WINDOW, "use_sliding_window": False},
            "odd-heads": {"hidden_size": 56, "num_attention_heads": 7, "num_key_value_heads": 1},
        },
    ),
    **rows(
        "Qwen3",
        {**SMALL, "head_dim": 12},
        {
            **HEADS,
            "biases-tied": {"attention_bias": True, "tie_word_embeddings": True},
            "window": QWEN_WINDOW,
            "odd-heads": {"num_attention_heads": 5, "num_key_value_heads": 5},
        },
    ),
    **rows(
        "Gemma",
        {**SMALL, "head_dim": 16},
        {
            **HEADS,
            "untied": {"tie_word_embeddings": False},
            "biases": {"attention_bias": True},
            "older-gelu": {"hidden_act": "gelu"},
        },
    ),
    **rows(
        "Gemma2",
        {**SMALL, "head_dim": 12, "sliding_window": 7, "query_pre_attn_scalar": 10, **CAPS},
        {
            **HEADS,
            "uncapped": {"attn_logit_softcapping": None, "final_logit_softcapping": None},
            "biases-untied": {"attention_bias": True, "tie_word_embeddings": False},
            "layer-types": {"layer_types": ["full_attention", "full_attention", "sliding_attention"]},
        },
    ),
    **rows(
        "Gemma3",
        GEMMA3,
        {
            **HEADS,
            "older-pattern": {"sliding_window_pattern": 2},
            "scaled": {
                "sliding_window_pattern": 2,
                "rope_parameters": {
                    "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
                    "sliding_attention": {"rope_type": "default", "rope_theta": 500.0},
                },
            },
            "capped": {"final_logit_softcapping": 4.0, "tie_word_embeddings": False},
        },
        config="Gemma3TextConfig",
    ),
    **rows(
        "Gemma3",
        {"text_config": {**GEMMA3, "sliding_window_pattern": 2}, "vision_config": VISION},
        {"vision": {}},
        model="Gemma3ForConditionalGeneration",
    ),
}
