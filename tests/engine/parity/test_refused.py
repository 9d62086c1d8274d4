"""What a family's page cannot say in a spec, it refuses by name and value, before any weight is read."""

from typing import Any

import pytest

from engine.errors import ModelLoadError
from engine.models.registry import FAMILIES, load_spec

REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("BloomForCausalLM", {"apply_residual_connection_post_layernorm": True}, "post_layernorm' is True"),
    ("BloomForCausalLM", {"n_inner": 100}, "'n_inner' is 100"),
    ("Cohere2ForCausalLM", {"position_embedding_type": "alibi"}, "'position_embedding_type' is 'alibi'"),
    ("Cohere2ForCausalLM", {"use_parallel_block": False}, "'use_parallel_block' is False"),
    ("Cohere2ForCausalLM", {"use_qk_norm": True}, "'use_qk_norm' is True"),
    ("Exaone4ForCausalLM", {"sliding_window_pattern": "LGLG"}, "'sliding_window_pattern' must be of type int"),
    ("FalconForCausalLM", {"apply_residual_connection_post_layernorm": True}, "post_layernorm' is True"),
    ("FalconForCausalLM", {"num_ln_in_parallel_attn": 2}, "'num_ln_in_parallel_attn' is 2"),
    ("FalconForCausalLM", {"new_decoder_architecture": True, "parallel_attn": False}, "'parallel_attn' is False"),
    ("FalconForCausalLM", {"activation": "tanh"}, "'activation' must be one of"),
    ("Gemma2ForCausalLM", {"hidden_activation": "tanh"}, "'hidden_activation' must be one of"),
    ("Gemma2ForCausalLM", {"layer_types": ["chunked_attention"] * 42}, "'layer_types' must name full_attention or"),
    ("Gemma3ForCausalLM", {"attn_logit_softcapping": 50.0}, "'attn_logit_softcapping' is 50.0"),
    ("Gemma3ForCausalLM", {"use_bidirectional_attention": True}, "'use_bidirectional_attention' is True"),
    ("Gemma3ForConditionalGeneration", {"text_config": "words"}, "'text_config' must hold fields"),
    ("GPTBigCodeForCausalLM", {"num_key_value_heads": 8}, "'num_key_value_heads' is 8"),
    ("GPTNeoForCausalLM", {"attention_types": [[["global"], 1]]}, "'attention_types' must name global or local"),
    ("GPTNeoForCausalLM", {"attention_types": "local"}, "got 'local'"),
    ("GPTNeoForCausalLM", {"attention_layers": ["global"] * 24}, "'attention_layers' is"),
    ("GptOssForCausalLM", {"hidden_act": "gelu"}, "'hidden_act' is 'gelu'"),
    ("GptOssForCausalLM", {"quantization_config": {"quant_method": "mxfp4"}}, "'quantization_config' is .*mxfp4"),
    ("GptOssForCausalLM", {"swiglu_alpha": 1.0}, "'swiglu_alpha' is 1.0"),
    ("GptOssForCausalLM", {"swiglu_limit": 10.0}, "'swiglu_limit' is 10.0"),
    ("MixtralForCausalLM", {"num_experts_per_tok": 9}, r"number of experts \(8\), got 9"),
    ("Mistral3ForConditionalGeneration", {"text_config": {"model_type": "llama"}}, "'model_type' is 'llama'"),
    ("Ministral3ForCausalLM", {"text_config": {"model_type": "ministral3"}}, "lacks 'num_hidden_layers'"),
    ("MptForCausalLM", {"attn_config": {"alibi": False}}, "'alibi' is False"),
    ("MptForCausalLM", {"attn_config": {"attn_type": "grouped_query_attention"}}, "'attn_type' is 'grouped"),
    ("MptForCausalLM", {"attn_config": {"qk_ln": True}}, "'qk_ln' is True"),
    ("MptForCausalLM", {"attn_config": "alibi"}, "'attn_config' must hold fields"),
    ("MptForCausalLM", {"logit_scale": 0.5}, "'logit_scale' is 0.5"),
    ("MptForCausalLM", {"n_heads": 0}, "'n_heads' must be at least 1"),
    ("OlmoeForCausalLM", {"clip_qkv": 8.0}, "'clip_qkv' is 8.0"),
    ("OpenELMForCausalLM", {"ffn_multipliers": [0.5, 4.0]}, "'ffn_multipliers' must be .* each of 16 layers"),
    ("OpenELMForCausalLM", {"normalization_layer_name": "layer_norm"}, "'normalization_layer_name' is 'layer_norm'"),
    ("OpenELMForCausalLM", {"num_kv_heads": [3] * 15}, "'num_kv_heads' must be .* each of 16 layers"),
    ("OpenELMForCausalLM", {"num_kv_heads": 5}, r"query heads \(12\) must be a multiple of the key/value heads \(5\)"),
    ("PicoLlmForCausalLM", {"tie_word_embeddings": True}, "'tie_word_embeddings' is True"),
    ("PicoLlmForCausalLM", {"window_pattern": "SXL"}, "'window_pattern' must be letters S and L, got 'SXL'"),
    ("Qwen3MoeForCausalLM", {"mlp_only_layers": 3}, "'mlp_only_layers' must be a list of layers, got 3"),
    ("Phi3ForCausalLM", {"rope_scaling": {"type": "yarn"}}, "'type' is 'yarn'"),
    ("Qwen2ForCausalLM", {"max_window_layers": "all"}, "'max_window_layers' must be of type int"),
    ("SmolLM3ForCausalLM", {"no_rope_layers": [1, 0]}, "'no_rope_layers' must be 0 or 1 for each of 36 layers"),
    ("Starcoder2ForCausalLM", {"mlp_type": "gated"}, "'mlp_type' is 'gated'"),
    ("Starcoder2ForCausalLM", {"norm_type": "rms_norm"}, "'norm_type' is 'rms_norm'"),
    ("OPTForCausalLM", {"ffn_dim": "wide"}, "'ffn_dim' must be of type int"),
]


@pytest.mark.parametrize(("architecture", "fields", "message"), REFUSED)
def test_refused(architecture: str, fields: dict[str, Any], message: str) -> None:
    config = {**FAMILIES[architecture].published.config, "architectures": [architecture], **fields}
    with pytest.raises(ModelLoadError, match=message):
        load_spec(config)
