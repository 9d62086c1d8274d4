"""Families whose query heads all share one key/value head."""

from tests.engine.parity.rows.row import VOCAB_SIZE, Row, rows

BIGCODE = {"n_embd": 48, "n_head": 3, "n_layer": 3, "vocab_size": VOCAB_SIZE, "n_positions": 64}
FALCON = {
    **{"hidden_size": 48, "num_attention_heads": 6, "num_hidden_layers": 3},
    **{"vocab_size": VOCAB_SIZE, "max_position_embeddings": 64},
}
NEW_FALCON = {"new_decoder_architecture": True, "num_kv_heads": 2}
FALCON_RW = {"alibi": True, "bias": True, "parallel_attn": False, "multi_query": False, "num_attention_heads": 8}

ROWS: dict[str, Row] = {
    **rows(
        "GPTBigCode",
        BIGCODE,
        {
            "mqa": {},
            "mha": {"multi_query": False},
            "mqa-untied": {"tie_word_embeddings": False, "n_inner": 40, "activation_function": "gelu"},
            "mha-unscaled": {"multi_query": False, "scale_attn_weights": False},
        },
    ),
    **rows(
        "Falcon",
        FALCON,
        {
            "7b": {},
            "7b-odd-heads-untied": {"hidden_size": 56, "num_attention_heads": 7, "tie_word_embeddings": False},
            "mha": {"multi_query": False, "bias": True},
            "serial-mqa": {"parallel_attn": False, "ffn_hidden_size": 40},
            "new": NEW_FALCON,
            "new-mha": {**NEW_FALCON, "num_kv_heads": 6},
            "new-mqa": {**NEW_FALCON, "num_kv_heads": 1},
            "new-one-norm": {**NEW_FALCON, "num_ln_in_parallel_attn": 1, "bias": True, "rope_theta": 500042.0},
        },
    ),
    # With eager attention transformers adds Falcon's ALiBi twice. It rounds the biases to bfloat16, which changes none
    # whose slopes are powers of 2.
    **rows(
        "Falcon",
        FALCON,
        {
            "rw": FALCON_RW,
            "rw-mqa": {**FALCON_RW, "multi_query": True},
            "rw-new": {**NEW_FALCON, "alibi": True, "num_attention_heads": 4},
        },
        attention="sdpa",
    ),
}
