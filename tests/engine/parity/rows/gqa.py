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
}
