"""Families whose query heads share key/value heads in groups; they have MHA and MQA as limits."""

from typing import Any

from tests.engine.parity.rows.row import SMALL, Row, rows

ORIGINAL = {"rope_theta": 10000.0, "original_max_position_embeddings": 32}
"""For ropes that were stretched from a shorter context than SMALL's."""
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, **ORIGINAL}
LINEAR = {"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0}
DYNAMIC = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
YARN = {"rope_type": "yarn", "factor": 4.0, "beta_fast": 4.0, **ORIGINAL, "rope_theta": 100.0}
LONGROPE = {
    **{"rope_type": "longrope", "rope_theta": 10000.0},
    **{"short_factor": [1.0, 1.1, 1.3, 1.6], "long_factor": [1.0, 2.5, 4.0, 7.0]},
}
ROPES: dict[str, dict[str, Any]] = {
    "linear-rope": LINEAR,
    "dynamic-rope": DYNAMIC,
    "llama3-rope": LLAMA3,
    "yarn-rope": YARN,
    "yarn-untruncated": {**YARN, "truncate": False},
    "yarn-mscale": {**YARN, "mscale": 1.0, "mscale_all_dim": 0.5},
    "yarn-temperature": {**YARN, "attention_factor": 1.5},
    "longrope": {**LONGROPE, "original_max_position_embeddings": 40},
    "longrope-temperature": {**LONGROPE, "original_max_position_embeddings": 40, "attention_factor": 1.5},
    "proportional-rope": {"rope_type": "proportional", "partial_rotary_factor": 0.5, "rope_theta": 100.0},
}
"""Contexts of all that depend on the length are long enough for the tests; see test_long_contexts.py."""
HEADS = {
    "mha": {"num_key_value_heads": 6},
    "gqa": {"num_key_value_heads": 2},
    "mqa": {"num_key_value_heads": 1},
}

BIASES_TIED = {"attention_bias": True, "tie_word_embeddings": True}
QWEN_WINDOW = {"use_sliding_window": True, "sliding_window": 7, "max_window_layers": 1}
CAPS = {"attn_logit_softcapping": 1.5, "final_logit_softcapping": 4.0}
GEMMA3 = {**SMALL, "num_hidden_layers": 4, "head_dim": 12, "sliding_window": 7, "query_pre_attn_scalar": 10}
VISION = {
    **{"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2},
    **{"image_size": 8, "patch_size": 4},
}
MINISTRAL3 = {
    **{**SMALL, "head_dim": 12},
    "rope_parameters": {**YARN, "original_max_position_embeddings": 9, "llama_4_scaling_beta": 0.5},
}

ROWS: dict[str, Row] = {
    **rows(
        "Llama",
        SMALL,
        {
            **HEADS,
            "head-dim": {"head_dim": 24},
            "biases-tied": {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True},
            **{name: {"rope_parameters": rope} for name, rope in ROPES.items()},
            "odd-heads": {"hidden_size": 72, "num_attention_heads": 9, "num_key_value_heads": 3},
        },
    ),
    **rows("Mistral", SMALL, {**HEADS, "window": {"sliding_window": 7}, "no-window": {"sliding_window": None}}),
    **rows(
        "Ministral",
        {**SMALL, "head_dim": 12},
        {
            **HEADS,
            "window": {"sliding_window": 7},
            "layer-types": {
                "sliding_window": 7,
                "layer_types": ["full_attention", "sliding_attention", "sliding_attention"],
            },
        },
    ),
    **rows(
        "Ministral3",
        MINISTRAL3,
        {
            **HEADS,
            "window": {"sliding_window": 7},
            "tied": {"tie_word_embeddings": True},
            "no-growth": {"rope_parameters": {**YARN, "llama_4_scaling_beta": 0.0}},
        },
    ),
    **rows(
        "Mistral3",
        {"vision_config": {**VISION, "model_type": "pixtral", "head_dim": 8}, "tie_word_embeddings": False},
        {
            "ministral": {"text_config": {**MINISTRAL3, "model_type": "ministral3"}},
            "mistral": {"text_config": {**SMALL, "model_type": "mistral", "sliding_window": 7}},
            "tied": {
                "text_config": {**SMALL, "model_type": "mistral", "tie_word_embeddings": True},
                "tie_word_embeddings": True,
            },
        },
        model="Mistral3ForConditionalGeneration",
    ),
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
    **rows(
        "Phi3",
        SMALL,
        {
            **HEADS,
            "tied": {"tie_word_embeddings": True},
            "window": {"sliding_window": 7},
            "partial-rope": {"partial_rotary_factor": 0.5},
            "longrope": {"rope_parameters": LONGROPE, "original_max_position_embeddings": 40},
            "longrope-partial": {
                **{"hidden_size": 96, "original_max_position_embeddings": 40},
                "rope_parameters": {**LONGROPE, "partial_rotary_factor": 0.5},
            },
        },
    ),
    **rows(
        "Granite",
        {
            **{**SMALL, "attention_multiplier": 0.2, "embedding_multiplier": 3.0},
            **{"residual_multiplier": 0.4, "logits_scaling": 5.0},
        },
        {
            **HEADS,
            "biases-tied": {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True},
        },
    ),
    **rows(
        "Starcoder2",
        SMALL,
        {
            **HEADS,
            "window": {"sliding_window": 7},
            "no-biases-untied": {"use_bias": False, "tie_word_embeddings": False},
        },
    ),
    **rows(
        "SmolLM3",
        {**SMALL, "num_hidden_layers": 4},
        {
            **HEADS,
            "biases-untied": {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": False},
            "rope-layers": {"no_rope_layers": [1, 0, 0, 1]},
            "window": {"use_sliding_window": True, "sliding_window": 7, "no_rope_layer_interval": 2},
            "no-window": {"sliding_window": 7},
        },
    ),
    **rows(
        "Cohere",
        SMALL,
        {
            **HEADS,
            "qk-norm": {"use_qk_norm": True},
            "biases-untied": {"attention_bias": True, "tie_word_embeddings": False, "logit_scale": 0.5},
        },
    ),
    **rows(
        "Cohere2",
        {**SMALL, "num_hidden_layers": 4, "sliding_window": 7},
        {
            **HEADS,
            "biases-untied": {"attention_bias": True, "tie_word_embeddings": False, "logit_scale": 0.5},
            "pattern": {"sliding_window_pattern": 2},
        },
    ),
    **rows(
        "Glm",
        {**SMALL, "head_dim": 12},
        {
            **HEADS,
            "no-biases-tied": {"attention_bias": False, "tie_word_embeddings": True},
            "whole-rope": {"partial_rotary_factor": 1.0},
            "yarn-rope": {"rope_parameters": YARN, "head_dim": 16},
        },
    ),
    **rows(
        "Glm4",
        {**SMALL, "head_dim": 12},
        {**HEADS, "no-biases-tied": {"attention_bias": False, "tie_word_embeddings": True}},
    ),
    **rows(
        "Nemotron",
        SMALL,
        {
            **HEADS,
            "biases-tied": {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True},
            "whole-rope": {"partial_rotary_factor": 1.0, "head_dim": 12},
            **{
                name: {"rope_parameters": ROPES[name], "head_dim": 16}
                for name in ("linear-rope", "dynamic-rope", "llama3-rope", "yarn-rope", "longrope")
            },
        },
    ),
    **rows(
        "Exaone4",
        {**SMALL, "num_hidden_layers": 4, "sliding_window": 7},
        {
            **HEADS,
            "tied": {"tie_word_embeddings": True},
            "pattern": {"sliding_window_pattern": 2},
            "no-window": {"sliding_window": None, "layer_types": ["full_attention"] * 4},
        },
    ),
    **rows(
        "NanoChat",
        SMALL,
        {
            **HEADS,
            "biases-tied": {"attention_bias": True, "tie_word_embeddings": True},
            "cap": {"final_logit_softcapping": 1.5, "hidden_act": "gelu"},
            "no-cap": {"final_logit_softcapping": None},
        },
    ),
    **rows(
        "Phi",
        SMALL,
        {
            **HEADS,
            "qk-norm-tied": {"qk_layernorm": True, "tie_word_embeddings": True},
            "whole-rope": {"partial_rotary_factor": 1.0, "hidden_act": "gelu"},
        },
    ),
    **rows(
        "StableLm",
        {**SMALL, "hidden_size": 96},
        {
            **{name: {**heads, "partial_rotary_factor": 0.5} for name, heads in HEADS.items()},
            "quarter-biases-tied": {"use_qkv_bias": True, "tie_word_embeddings": True},
            "parallel": {"use_parallel_residual": True},
            "qk-norm": {"qk_layernorm": True, "use_parallel_residual": True},
        },
    ),
    **rows("Olmo", SMALL, {**HEADS, "clipped": {"clip_qkv": 0.5}, "biases-tied": BIASES_TIED}),
    **rows("Olmo2", SMALL, {**HEADS, "biases-tied": BIASES_TIED}),
    **rows(
        "Olmo3",
        {**SMALL, "num_hidden_layers": 5, "sliding_window": 7},
        {
            **HEADS,
            "yarn": {"rope_scaling": {**YARN, "attention_factor": 1.3}},
            "layer-types": {"num_hidden_layers": 2, "layer_types": ["full_attention", "sliding_attention"]},
        },
    ),
    **rows(
        "Helium",
        SMALL,
        {name: {**heads, "head_dim": 8} for name, heads in HEADS.items()}
        | {"biases-tied": {"head_dim": 8, "attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True}},
    ),
    **rows(
        "Ernie4_5",
        {**SMALL, "head_dim": 12},
        {**HEADS, "biases-untied": {"use_bias": True, "tie_word_embeddings": False}},
    ),
    **rows(
        "SeedOss",
        {**SMALL, "head_dim": 12},
        {
            **HEADS,
            "biases-tied": {"attention_out_bias": True, "mlp_bias": True, "tie_word_embeddings": True},
            "no-biases": {"attention_bias": False},
        },
    ),
    **rows(
        "Cwm",
        {**SMALL, "num_hidden_layers": 5, "head_dim": 12, "sliding_window": 7},
        {
            **HEADS,
            "biases-tied": {"mlp_bias": True, "tie_word_embeddings": True},
            "layer-types": {"layer_types": [*["sliding_attention"] * 4, "full_attention"]},
        },
    ),
    **rows(
        "HunYuanDenseV1",
        {**SMALL, "head_dim": 12},
        {
            **HEADS,
            "biases-tied": {"attention_bias": True, "tie_word_embeddings": True},
            "alpha": {"rope_parameters": {**DYNAMIC, "factor": 1.0, "alpha": 30.0}},
            "dynamic-rope": {"rope_parameters": DYNAMIC},
        },
    ),
}
