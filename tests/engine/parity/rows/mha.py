"""Families whose query heads each have a key/value head."""

from tests.engine.parity.rows.row import VOCAB_SIZE, Row, rows

GPT2 = {"n_embd": 48, "n_head": 3, "n_layer": 3, "vocab_size": VOCAB_SIZE, "n_positions": 64}

ROWS: dict[str, Row] = {
    **rows(
        "GPT2",
        GPT2,
        {
            "tied": {},
            "untied": {"tie_word_embeddings": False},
            "scaled": {"scale_attn_by_inverse_layer_idx": True, "n_inner": 40},
            "unscaled": {"scale_attn_weights": False, "activation_function": "relu"},
        },
        model="GPT2LMHeadModel",
    ),
}
