"""Families whose query heads each have a key/value head."""

from tests.engine.parity.rows.row import SMALL, VOCAB_SIZE, Row, rows

GPT2 = {"n_embd": 48, "n_head": 3, "n_layer": 3, "vocab_size": VOCAB_SIZE, "n_positions": 64}
GPTJ = {**GPT2, "n_head": 4, "rotary_dim": 8}
GPT_NEO = {"hidden_size": 48, "num_heads": 3, "vocab_size": VOCAB_SIZE, "max_position_embeddings": 64, "window_size": 7}
BLOOM = {"hidden_size": 48, "n_head": 6, "n_layer": 3, "vocab_size": VOCAB_SIZE, "seq_length": 64}
OPT = {
    **{"hidden_size": 48, "ffn_dim": 56, "num_attention_heads": 3, "num_hidden_layers": 3},
    **{"vocab_size": VOCAB_SIZE, "max_position_embeddings": 64, "word_embed_proj_dim": 48},
}
MPT = {"d_model": 48, "n_heads": 6, "n_layers": 3, "vocab_size": VOCAB_SIZE, "max_seq_len": 64}
NEOX = {name: value for name, value in SMALL.items() if name != "num_key_value_heads"}

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
    **rows(
        "GPTNeoX",
        NEOX,
        {
            "parallel": {},
            "serial": {"use_parallel_residual": False},
            "no-attention-bias": {"attention_bias": False, "hidden_act": "gelu_fast"},
            "whole-rope-tied": {"rotary_pct": 1.0, "rotary_emb_base": 100, "tie_word_embeddings": True},
            "linear-rope": {"rope_scaling": {"type": "linear", "factor": 3.0}, "rotary_pct": 0.5},
            "odd-heads": {"hidden_size": 72, "num_attention_heads": 9, "rotary_pct": 0.5},
        },
    ),
    **rows(
        "Bloom",
        BLOOM,
        {
            "six-heads": {},
            "eight-heads": {"n_head": 8},
            "three-heads-untied": {"n_head": 3, "tie_word_embeddings": False},
            "one-head": {"n_head": 1},
        },
    ),
    **rows(
        "Mpt",
        MPT,
        {
            "six-heads": {},
            "sixteen-heads": {"n_heads": 16},
            "clipped-scaled-untied": {
                "n_heads": 3,
                "attn_config": {"clip_qkv": 0.5, "softmax_scale": 0.7},
                "tie_word_embeddings": False,
            },
        },
    ),
    **rows(
        "GPTJ",
        GPTJ,
        {
            "partial-rope": {},
            "whole-rope-tied": {"rotary_dim": 12, "tie_word_embeddings": True, "n_inner": 40},
            "odd-heads": {"n_head": 3},
        },
    ),
    **rows(
        "CodeGen",
        GPTJ,
        {
            "four-heads": {},
            "twelve-heads-tied": {"n_head": 12, "rotary_dim": 4, "n_inner": 40, "tie_word_embeddings": True},
        },
    ),
    **rows(
        "GPTNeo",
        GPT_NEO,
        {
            "local": {"num_layers": 4, "attention_types": [[["global", "local"], 2]]},
            "global": {"num_layers": 2, "attention_types": [[["global"], 2]], "intermediate_size": 40},
            "mixed-untied": {
                "num_layers": 3,
                "attention_types": [[["local"], 2], [["global"], 1]],
                "tie_word_embeddings": False,
            },
        },
    ),
    **rows(
        "OPT",
        OPT,
        {
            "125m": {},
            "350m": {"do_layer_norm_before": False, "word_embed_proj_dim": 32},
            "galactica": {"enable_bias": False, "activation_function": "gelu", "layer_norm_elementwise_affine": False},
            "narrow-untied": {"word_embed_proj_dim": 32, "tie_word_embeddings": False},
            "no-last-norm": {"_remove_final_layer_norm": True},
        },
    ),
    **rows("Persimmon", NEOX, {"qk-norm": {}, "no-qk-norm": {"qk_layernorm": False, "tie_word_embeddings": True}}),
}
